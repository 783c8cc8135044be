"""Running the command in a directory of its own, as a user would."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(sys.executable).with_name("launcher")
TOY = str(ROOT / "tests/toy/entrypoint.py")

PROFILE = 'extends = "slurm"\ndescription = "virtual nodes"\ndevice = "cpu"\ngpus_per_node = 2\n'
RECIPE = "def configure(text=None, other=None):\n    return None\n"


@dataclass(frozen=True)
class User:
    """Somebody with a directory, a recipe and an environment; `run` gives a command, `salloc` one in an allocation."""

    directory: Path
    environ: dict[str, str]

    def run(
        self, *arguments: str, status: int | None = 0, timeout_s: float = 120, environ: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """`launcher ARGUMENTS`; it has to end with `status`."""
        return self.call([str(LAUNCHER), *arguments], status=status, timeout_s=timeout_s, environ=environ)

    def call(
        self,
        argv: list[str],
        *,
        status: int | None = 0,
        timeout_s: float = 120,
        environ: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Any program with this user's environment."""
        done = subprocess.run(
            argv,
            cwd=self.directory,
            env={**self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=seconds(timeout_s),
            errors="surrogateescape",
        )
        assert status is None or done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def salloc(
        self,
        *arguments: str,
        options: tuple[str, ...] = (),
        status: int | None = 0,
        timeout_s: float = 120,
        environ: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """`launcher ARGUMENTS` in the shell of an allocation."""
        argv = ["salloc", *options, str(LAUNCHER), *arguments]
        return self.call(argv, status=status, timeout_s=timeout_s, environ=environ)

    def runs(self) -> list[Path]:
        """All run directories, oldest first."""
        plans = self.directory.glob("runs/*/[!.]*/plan.json")
        # A run id has the second; of two within one the plan that was written first is the older.
        return [path.parent for path in sorted(plans, key=lambda it: (it.parent.name[:15], it.stat().st_mtime_ns))]

    def seen(self, run: Path) -> list[dict[str, Any]]:
        """What each rank of the first attempt was given."""
        return [seen(path) for path in sorted(run.glob("attempts/000/ranks/*.seen.json"))]


def seen(path: Path) -> dict[str, Any]:
    """A toy's note of what it was given, argv.json understood."""
    note: dict[str, Any] = json.loads(path.read_text())
    return {**note, "request": json.loads(note["argv_json"])}


def user_of(directory: Path, cluster: VirtualCluster | None = None) -> User:
    """A user in `directory`, with the virtual cluster's profile if there is one."""
    (directory / "clusters").mkdir()
    (directory / "clusters" / "virtual.toml").write_text(PROFILE)
    (directory / "small.py").write_text(RECIPE)
    base = cluster.environment if cluster else dict(os.environ)
    environ = {name: value for name, value in base.items() if not name.startswith(("LAUNCHER", "SBATCH", "SRUN"))}
    environ |= {"LAUNCHER_CACHE": str(directory / "cache")}
    environ |= {"LAUNCHER_CLUSTERS": str(directory / "clusters"), "LAUNCHER_CLUSTER": "virtual" if cluster else "local"}
    environ.pop("SLURM_JOB_ID", None)
    return User(directory, environ)
