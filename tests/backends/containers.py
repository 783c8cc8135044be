"""Runs inside containers, for tests: profiles, programs that may be missing, what a rank found in there."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.backends.running import ROOT, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

PROGRAM = str(ROOT / "tests/backends/inside.py")

# A node of a virtual cluster has a /run of its own, as a real one has a disk of its own.
SCRATCH = "/run/scratch"
ENROOT_PATHS = {"RUNTIME": "/run/enroot/run", "CACHE": "/run/enroot/cache", "DATA": "/run/enroot/data"}


def missing(runtime: str) -> str | None:
    """Why nothing can run under `runtime` here; None if it can."""
    needed = {"bwrap": ("bwrap", "unsquashfs"), "enroot": ("enroot", "unsquashfs"), "pyxis": ("enroot", "unsquashfs")}
    absent = [name for name in needed[runtime] if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} on the PATH"
    if runtime == "pyxis" and not os.environ.get("PYXIS"):
        return "needs pyxis: PYXIS=/path/spank_pyxis.so, compiled against this very Slurm"
    return None


def wrapped_enroot(directory: Path) -> Path:
    """A directory with an `enroot` that keeps what virtual nodes must not share below /run."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [f"export ENROOT_{name}_PATH=${{ENROOT_{name}_PATH-{path}}}" for name, path in ENROOT_PATHS.items()]
    program = directory / "enroot"
    program.write_text("\n".join(["#!/bin/bash", *lines, f'exec {shutil.which("enroot")} "$@"', ""]))
    program.chmod(0o755)
    return directory


@dataclass(frozen=True)
class Contained:
    """A user with the profiles `here` (Slurm) and `alone` (this machine) of one runtime."""

    user: User
    image: Path
    cluster: VirtualCluster | None = None

    def arguments(self, *more: str, program: str = PROGRAM, image: str | None = None) -> tuple[str, ...]:
        """Of run and submit: the recipe, the image, the program."""
        return ("small.py", "--image", image or str(self.image), "--entrypoint", program, "--json", *more)

    def submit(self, *more: str, state: str = "COMPLETED", program: str = PROGRAM) -> Path:
        """Submit a job and wait for its end; its run directory."""
        assert self.cluster is not None
        asked = self.arguments("--cluster", "here", *more, program=program)
        answer = json.loads(self.user.run("submit", *asked).stdout)
        ended = self.cluster.wait(answer["job"], "COMPLETED", "FAILED", "CANCELLED", timeout_s=90)
        run = Path(answer["run_dir"])
        assert ended == state, logs(run)
        return run

    def local(self, *more: str, status: int | None = 0, program: str = PROGRAM) -> tuple[Path, Any]:
        """Run on this machine; the run directory and what the command printed on standard error."""
        done = self.user.run("run", *self.arguments("--cluster", "alone", *more, program=program), status=status)
        return Path(json.loads(done.stdout)["run_dir"]), done.stderr


def contained(
    directory: Path, runtime: str, image: Path, cluster: VirtualCluster | None = None, **profile: object
) -> Contained:
    """A user in `directory` whose tasks run in `image`; `profile` are further values of both profiles."""
    user = user_of(directory, cluster)
    values: dict[str, object] = {"runtime": runtime, "device": "cpu", "gpus_per_node": 2, **profile}
    for name, base, scratch in (("here", "slurm", SCRATCH), ("alone", "local", str(directory / "scratch"))):
        all_values = {"extends": base, "scratch": scratch, **values}
        lines = [f"{key} = {json.dumps(value)}" for key, value in all_values.items()]
        (directory / f"clusters/{name}.toml").write_text("\n".join([*lines, ""]))
    (directory / "scratch").mkdir()
    if runtime != "bwrap":
        user.environ["PATH"] = f"{wrapped_enroot(directory / 'bin')}:{user.environ['PATH']}"
    return Contained(user, image, cluster)


def found(run: Path) -> list[dict[str, Any]]:
    """What each rank of the first attempt found."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("attempts/000/ranks/*.found.json"))]


def logs(run: Path) -> str:
    """Everything that was logged."""
    paths = [*run.glob("sbatch.log"), *sorted(run.glob("attempts/*/logs/*"))]
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in paths)


def result(run: Path) -> dict[str, Any]:
    """The verdict on the first attempt."""
    answer: dict[str, Any] = json.loads((run / "attempts/000/result.json").read_text())
    return answer


def left_on(cluster: VirtualCluster, node: str) -> list[str]:
    """What runs have left on a node: trees, locks, containers."""
    run = cluster.directory / "run" / node
    return sorted(str(path.relative_to(run)) for place in LEFT for path in run.glob(place))


LEFT = ("scratch/launcher-*/launcher-*", "scratch/launcher-*/enroot/*", "enroot/data/*")
