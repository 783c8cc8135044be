"""The container runtime of a run whose request and cluster profile leave it open: what the cluster has.

It is decided once for a cluster and remembered with its evidence, below the cache directory: two runs in a row do not
differ because one of them was started from a shell with another PATH. What was decided counts until a file that it
depends on has changed, or srun has lost the plugin. A cluster without a runtime is looked at each time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from launcher._util.errors import ConfigError, SlurmError
from launcher._util.shell import Shell
from launcher._util.user_paths import cache_directory
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract import files
from launcher.contract.frozen import dataclass
from launcher.discovery.host import HostContext
from launcher.runtimes import AUTOMATIC, BARE, CONTAINERS, RUNTIMES
from launcher.runtimes.model import ContainerRuntime

DEFAULT_IMAGE = "megatron-lm+latest.sqsh"
"""The name of the image that `make build` leaves in a checkout."""


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime, and why it was chosen."""

    name: str
    origin: str
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Finding:
    name: str
    evidence: str
    depends_on: tuple[Path, ...]
    """Files that decide whether it still holds."""


def choose_runtime(
    request: Request, cluster: Cluster, host: HostContext, shell: Shell, *, srun: bool, earlier: str | None = None
) -> RuntimeChoice:
    """Choose the runtime: the request's, else the profile's, else one that the cluster has if an image is named.

    `srun` is whether Slurm's srun starts the ranks; `earlier` is the runtime of the run that is continued. Raises
    ConfigError if an image is named and the cluster has no runtime.
    """
    chosen = _choose(request, cluster, host, shell, srun=srun, earlier=earlier)
    if RUNTIMES[chosen.name].is_container or request.runtime not in (None, AUTOMATIC):
        return chosen
    lying = _lying_image(request, host)
    if lying is None:
        return chosen
    text = (
        f"the image {lying} is there and is not used, because {chosen.origin}; --image {lying} runs in it, and "
        "--runtime none runs on the bare machine without this warning"
    )
    return RuntimeChoice(chosen.name, chosen.origin, (*chosen.warnings, text))


def _choose(
    request: Request, cluster: Cluster, host: HostContext, shell: Shell, *, srun: bool, earlier: str | None
) -> RuntimeChoice:
    if request.runtime not in (None, AUTOMATIC):
        return RuntimeChoice(request.runtime, "as requested")
    if request.runtime is None and cluster.runtime != AUTOMATIC:
        return RuntimeChoice(cluster.runtime, f"the cluster profile {cluster.name!r} says runtime = {cluster.runtime}")
    named = request.image or cluster.image
    if request.runtime is None and earlier is not None and (earlier != BARE.name or named is None):
        return RuntimeChoice(earlier, "as in the run's earlier attempts")
    default = request.default_image
    if named is None and (default is None or not (host.directory / default).exists()):
        return RuntimeChoice(BARE.name, "no image is named")
    found, lacking = _remembered_or_found(cluster, host, shell, srun=srun)
    if found is not None:
        elsewhere = srun and not RUNTIMES[found.name].needs_srun
        programs = " and ".join(RUNTIMES[found.name].programs)
        unchecked = (f"whether the nodes have {programs}: seen on {host.hostname} only",) if elsewhere else ()
        return RuntimeChoice(found.name, found.evidence, unchecked=unchecked)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
    if named is not None:
        raise ConfigError(
            f"the image {named} needs a container, and no runtime was found here ({reasons})",
            hint="Name one that the nodes have (--runtime enroot), or leave the image out.",
        )
    return RuntimeChoice(BARE.name, f"no runtime was found here ({reasons})")


def _lying_image(request: Request, host: HostContext) -> str | None:
    """Return an image at the place where a build leaves it, as the user would name it."""
    for text in (request.default_image, f"./{DEFAULT_IMAGE}"):
        if text is not None and (host.directory / text).exists():
            return text
    return None


def _remembered_or_found(
    cluster: Cluster, host: HostContext, shell: Shell, *, srun: bool
) -> tuple[_Finding | None, dict[str, str]]:
    """Return the runtime that counts; without one, what each lacks."""
    slurm = _slurm_files(host) if srun else ()
    record = _record(cluster, slurm, host)
    if (kept := _read(record)) is not None and _still_there(kept, shell):
        return kept, {}
    lacking: dict[str, str] = {}
    for runtime in CONTAINERS:
        if runtime.needs_srun and not srun:
            lacking[runtime.name] = "the ranks start without Slurm"
            continue
        found = _look(runtime, host, shell, slurm)
        if isinstance(found, _Finding):
            _write(record, found, host)
            return found, {}
        lacking[runtime.name] = found
    return None, lacking


def _still_there(kept: _Finding, shell: Shell) -> bool:
    """Return whether srun still has the option of a remembered plugin; without an answer it counts as there.

    srun is asked each time: where it reads its configuration from the controller, no file here changes with that.
    """
    runtime = RUNTIMES[kept.name]
    if runtime.srun_option is None:
        return True
    from launcher.slurm.info import srun_help

    try:
        return runtime.why_unavailable(srun_help(shell), frozenset()) is None
    except SlurmError:
        return True


def _look(runtime: ContainerRuntime, host: HostContext, shell: Shell, slurm: tuple[Path, ...]) -> _Finding | str:
    """Return what shows that the runtime is there, else what is missing."""
    if runtime.srun_option is not None:
        from launcher.slurm.info import srun_help

        try:
            missing = runtime.why_unavailable(srun_help(shell), frozenset())
        except SlurmError as error:
            return error.message
        return missing or _Finding(runtime.name, f"srun --help lists {runtime.srun_option}", slurm)
    path = host.environ.get("PATH", os.defpath)
    found = {name: shutil.which(name, path=path) for name in runtime.programs}
    there = {name: place for name, place in found.items() if place is not None}
    missing = runtime.why_unavailable("", frozenset(there))
    if missing is not None:
        return missing
    places = tuple(there.values())
    words = f"{' and '.join(places)} {'is' if len(places) == 1 else 'are'} there"
    return _Finding(runtime.name, words, (*_paths(places), *slurm))  # a plugin of srun's may come, and is preferred


def _slurm_files(host: HostContext) -> tuple[Path, ...]:
    """Return the files that decide which plugins srun loads: itself, its configuration, the list of plugins."""
    srun = shutil.which("srun", path=host.environ.get("PATH", os.defpath))
    conf = Path(host.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf")
    return _paths((*([srun] if srun else []), conf, conf.parent / "plugstack.conf", conf.parent / "plugstack.conf.d"))


def _paths(places: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(Path(place) for place in places)


def _record(cluster: Cluster, slurm: tuple[Path, ...], host: HostContext) -> Path:
    """Return the file that remembers the decision for this profile and this Slurm."""
    key = hashlib.sha256(json.dumps([cluster.name, *map(str, slurm)]).encode()).hexdigest()[:16]
    return cache_directory(host.environ) / "runtimes" / f"{cluster.name}-{key}.json"


def _read(record: Path) -> _Finding | None:
    """Return the remembered decision; None without one, and where a file that it depends on has changed."""
    kept = files.read_object(record)
    try:
        if kept is None or kept["runtime"] not in RUNTIMES or kept["state"] != _state(map(Path, kept["files"])):
            return None
        return _Finding(kept["runtime"], str(kept["evidence"]), _paths(kept["files"]))
    except (KeyError, TypeError):
        return None


def _write(record: Path, found: _Finding, host: HostContext) -> None:
    """Remember the decision; without space or permission it is made anew each time."""
    content = {
        "runtime": found.name,
        "evidence": found.evidence,
        "found_on": host.hostname,
        "found_at": host.now,
        "files": [str(path) for path in found.depends_on],
        "state": _state(found.depends_on),
    }
    try:
        record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_text(record, json.dumps(content, indent=1) + "\n", mode=0o600)
    except OSError:
        return  # what is not recorded is looked for again


def _state(paths: Iterable[Path]) -> list[list[int] | None]:
    """Return size and time of change of each file; None for one that is not there."""
    found: list[list[int] | None] = []
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append([seen.st_size, seen.st_mtime_ns])
    return found
