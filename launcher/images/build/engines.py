"""docker, podman and buildah: which of them works here, and the commands that images are built and unpacked with.

Nothing that an engine holds is renamed or removed, except what the launcher made: an image is built without a name
and known by its ID (`--iidfile`). Containers are in containers.py.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from launcher._util.errors import CommandError, ImageError, MissingProgramError, OutsideError
from launcher._util.shell import OnTick, Result, Shell
from launcher.images.build.layout import ImageConfig, parse_config

EngineName = Literal["docker", "podman", "buildah"]
ORDER: tuple[EngineName, ...] = get_args(EngineName)

_PROBE_S = 30.0


@dataclass(frozen=True)
class Engine:
    """An engine that works here."""

    name: EngineName
    version: str
    options: tuple[str, ...] = ()
    """Between its name and the command: a storage of its own."""
    graph_root: Path | None = None
    """Where podman and buildah keep images and containers, see containers-storage.conf(5)."""

    def argv(self, *words: str) -> list[str]:
        """Return a command line of this engine."""
        return [self.name, *self.options, *words]

    def private(self, directory: Path, run: Path) -> "Engine":
        """Return this engine (podman or buildah) with a storage in `directory`, separate from the user's.

        `run` is for files that do not outlive a boot; podman refuses a path of more than 50 characters there.
        """
        storage = ("--root", str(directory / "root"), "--runroot", str(run))
        # Without this the storage is mounted over itself, and the mount outlives the last command.
        driver = ("--storage-driver", "overlay", "--storage-opt", "overlay.skip_mount_home=true")
        return replace(self, options=(*storage, *driver), graph_root=directory / "root")


@dataclass(frozen=True)
class EngineImage:
    """An image that an engine holds."""

    id: str
    """sha256:..."""
    config: ImageConfig
    size_bytes: int | None
    digest: str | None
    """sha256:... of the manifest in the registry that it came from, where the engine knows one."""


def find_engine(shell: Shell, wanted: str | None = None, order: Sequence[EngineName] = ORDER) -> Engine:
    """Return the wanted engine, else the first that works here.

    Raises ImageError for an unknown name, OutsideError that says of each why it was not taken.
    """
    if wanted is not None and wanted not in order:
        raise ImageError(f"{wanted!r} is not an engine for this", where="--engine", hint=f"Use {', '.join(order)}.")
    reasons = []
    for name in order if wanted is None else [cast(EngineName, wanted)]:
        found = probe(name, shell)
        if isinstance(found, Engine):
            return found
        reasons.append(f"  {name}: {found}")
    what = f"{wanted} does not work here" if wanted else "no container engine works here"
    hint = "\n".join([f"Install one of {', '.join(order)}, or use another machine (--in-job-on). Tried:", *reasons])
    raise OutsideError(what, where="--engine" if wanted else None, hint=hint)


def ask(
    argv: Sequence[str],
    shell: Shell,
    *,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout_s: float | None = None,
    on_tick: OnTick | None = None,
) -> Result:
    """Run a short command of an engine or of enroot and return its result, with the whole output.

    A command that hangs is ended with SIGTERM first, as all other commands of engines are: it may hold locks of theirs.
    Raises MissingProgramError, CommandError.
    """
    written: dict[str, list[str]] = {"out": [], "err": []}
    result = shell.stream(
        argv,
        lambda name, text: written[name].append(text),
        env=env,
        check=check,
        timeout_s=timeout_s,
        on_tick=on_tick,
    )
    return replace(result, stdout="".join(written["out"]), stderr="".join(written["err"]))


def probe(name: EngineName, shell: Shell) -> Engine | str:
    """Return the engine if it works on this machine, else why not."""
    question = ["info", "--format", "{{json .}}"] if name == "docker" else ["info"]
    if name == "podman":
        question += ["--format", "json"]
    try:
        result = ask([name, *question], shell, check=False, timeout_s=_PROBE_S)
    except MissingProgramError:
        return "not installed"
    except CommandError:
        return f"did not answer within {_PROBE_S:g} s"
    words = (result.stderr.strip() or result.stdout.strip()).splitlines()
    if result.status != 0:
        return words[-1] if words else f"ended with status {result.status}"
    try:
        info = json.loads(result.stdout)
    except ValueError:
        return "its output cannot be read"
    return _engine_from_info(name, info)


def _engine_from_info(name: EngineName, info: Mapping[str, Any]) -> Engine | str:
    if name == "docker":
        # Old clients end with status 0 where no daemon answers.
        if not info.get("ServerVersion"):
            return str((info.get("ServerErrors") or ["its daemon does not answer"])[0])
        return Engine(name, str(info["ServerVersion"]))
    host = info.get("host") or {}
    store = {key.lower(): value for key, value in (info.get("store") or {}).items()}
    graph_root = Path(store["graphroot"]) if "graphroot" in store else None
    if name == "podman":
        runtime = str((host.get("ociRuntime") or {}).get("path") or "")
        if os.environ.get("BUILDAH_ISOLATION") != "chroot" and not shutil.which(runtime):
            return f"its runtime {runtime or '(none)'} does not exist: install crun or runc"
        return Engine(name, str((info.get("version") or {}).get("Version", "unknown")), graph_root=graph_root)
    version = str(host.get("BuildahVersion") or host.get("buildahVersion") or "unknown")
    return Engine(name, version, graph_root=graph_root)


def inspect(engine: Engine, image: str, shell: Shell) -> EngineImage | None:
    """Return the image that the engine holds under a name or an ID; None if it holds none. Raises CommandError."""
    words = ["inspect", "--type", "image", image] if engine.name == "buildah" else ["image", "inspect", image]
    result = ask(engine.argv(*words), shell, check=False)
    if result.status != 0:
        if re.search(r"no such (image|object)|not known|not found|failed to find", result.stderr, re.IGNORECASE):
            return None
        raise CommandError(f"{engine.name} cannot inspect {image}: {result.stderr.strip()}")
    document = json.loads(result.stdout)
    if engine.name == "buildah":
        found, identity = document["OCIv1"], document["FromImageID"]
        digest = document.get("FromImageDigest")
    else:
        found = document[0]
        identity, names = found["Id"], found.get("RepoDigests") or [""]
        digest = found.get("Digest") or names[0].partition("@")[2]
    return EngineImage(
        f"sha256:{identity.removeprefix('sha256:')}", parse_config(found), found.get("Size"), digest or None
    )


def untar_command(root: Path, archive: str, option: str | None = None) -> list[str]:
    """Return the command that unpacks an archive (`-`: its input) into `root`, without device files."""
    argv = ["tar", "-C", str(root), "-x", "-p", "-f", archive, "--numeric-owner", "--delay-directory-restore"]
    argv += [option] if option else []
    argv += ["--warning=no-timestamp", "--anchored", "--exclude=dev/*", "--exclude=./dev/*"]
    return argv if os.geteuid() == 0 else [*argv, "--no-same-owner"]


def make_readable(root: Path, shell: Shell) -> None:
    """Let a normal user read and write all files of a tree: images hold some that only root can read."""
    if os.geteuid() != 0:
        shell.run(["chmod", "-R", "u+rwX", str(root)], check=False)


def missing_image_error(engine: Engine, image: str) -> CommandError:
    """Return the error for an image that was just made, and that the engine does not have."""
    return CommandError(
        f"{engine.name} does not have the image {image} that it has just made",
        hint="A docker builder that keeps its images elsewhere does that: `docker buildx use default`.",
    )
