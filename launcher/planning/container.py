"""The image of a run, its mounts, and how its tasks get in."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.image import Image
from launcher.planning.backend import BackendTraits
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import PlannedImage
from launcher.runtimes import AUTOMATIC, BARE, CONTAINERS, RUNTIMES, UNMOUNTABLE
from launcher.runtimes.model import Container, ContainerRequest, ContainerRuntime, Mount

# What programs of any image need, wherever its packages lie.
_NEEDED = ("/bin", "/etc", "/lib", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local/lib")


def chosen_runtime(request: Request, cluster: Cluster) -> ContainerRuntime:
    """Return the request's runtime, or else the profile's; the bare machine where nothing has decided it."""
    stated = request.runtime if request.runtime != AUTOMATIC else None
    return RUNTIMES.get(stated or cluster.runtime, BARE)


def wanted_image(request: Request, cluster: Cluster, backend: BackendTraits) -> str | None:
    """Return the text that names the run's image; None on the bare machine.

    Raises ConfigError where they do not fit.
    """
    runtime = chosen_runtime(request, cluster)
    if not runtime.is_container:
        if request.image is not None:
            raise ConfigError(
                f"--image {request.image} needs a container, but the runtime is {runtime.name}",
                hint=f"Give a runtime that the cluster has ({_names(CONTAINERS)}), or leave the image out.",
            )
        return None
    if runtime.needs_srun and not backend.slurm_step:
        others = _names(each for each in CONTAINERS if not each.needs_srun)
        raise ConfigError(
            f"{runtime.name} enters images through Slurm's srun, and a local run starts its ranks without Slurm",
            where="--runtime",
            hint=f"Enter the image with another runtime ({others}), run on the bare machine ({_option(BARE)}), "
            "or run in an allocation.",
        )
    image = request.image or cluster.image or request.default_image
    if image is None:
        raise ConfigError(
            f"the runtime {runtime.name} of the cluster profile {cluster.name!r} needs an image",
            hint="Name one (--image NAME; `launcher image list` shows the store's), or run on the bare nodes: "
            f"{_option(BARE)}.",
        )
    return image


def describe_image(image: Image) -> PlannedImage:
    """Return what the plan records of an image."""
    return PlannedImage(
        name=image.name,
        path=str(image.path),
        digest=image.digest,
        architecture=image.architecture,
        size_bytes=image.size_bytes,
        store=str(image.store) if image.store else None,
        key=image.key,
    )


def plan_container(
    inputs: PlanInputs, runtime: ContainerRuntime, mounts: tuple[Mount, ...], run_dir: str, named: tuple[str, ...]
) -> Container | None:
    """Return how tasks get into the image; None on the bare machine. Raises ConfigError for an unmountable path."""
    if inputs.image is None or runtime.container is None:
        return None
    scratch = inputs.cluster.scratch
    if scratch is not None:
        _check_path(scratch, BARE, where=f"scratch of the cluster profile {inputs.cluster.name!r}")
    run = hashlib.sha256(run_dir.encode()).hexdigest()[:6]
    return runtime.container(
        ContainerRequest(
            image=str(inputs.image.path),
            label=f"launcher-{inputs.image.key}-{run}",
            mounts=(Mount(run_dir, run_dir), *mounts),
            run_dir=run_dir,
            writable=inputs.cluster.container_writable,
            named=named,
            scratch=scratch,
        )
    )


def plan_mounts(
    request: Request, cluster: Cluster, runtime: ContainerRuntime, run_dir: str, needed: Iterable[str] = ()
) -> tuple[Mount, ...]:
    """Return the mounts besides the run directory's own; `needed` are directories that the run itself reads.

    Raises ConfigError.
    """
    if not runtime.is_container:
        if request.mounts:
            raise ConfigError(
                f"--mount needs a container, but the runtime is {runtime.name}",
                hint=f"Give --image, and a runtime that the cluster has ({_names(CONTAINERS)}).",
            )
        return ()
    _check_path(run_dir, runtime, where="--run-root")
    wanted = (*cluster.mounts, *(request.mounts or request.default_mounts))
    mounts = read_mounts((*wanted, *(f"{path}:ro" for path in needed)), runtime)
    taken = {run_dir: Mount(run_dir, run_dir)}
    for mount in mounts:
        other = taken.setdefault(mount.target, mount)
        if other != mount:
            raise ConfigError(
                f"{mount.source} and {other.source} are both to be mounted at {mount.target}",
                where="--mount",
                hint="Mount one of them elsewhere: --mount SRC:DST.",
            )
    return mounts


def read_mounts(texts: Iterable[str], runtime: ContainerRuntime) -> tuple[Mount, ...]:
    """Parse `SRC[:DST][:ro|rw]`; the same mount given twice counts once.

    Raises ConfigError, also for a path that the runtime cannot mount.
    """
    return tuple(dict.fromkeys(_read_mount(text, runtime) for text in texts))


def _names(runtimes: Iterable[ContainerRuntime]) -> str:
    return " or ".join(_option(each) for each in runtimes)


def _option(runtime: ContainerRuntime) -> str:
    return f"--runtime {runtime.name}"


def _read_mount(text: str, runtime: ContainerRuntime) -> Mount:
    source, *rest = text.split(":")
    target = rest[0] if rest and rest[0] not in ("ro", "rw") else source
    flags = [part for part in rest[1:] or rest if part in ("ro", "rw")]
    if len(rest) > 2 or (len(rest) == 2 and not flags):
        raise ConfigError(
            f"{text!r} is not a mount",
            where="--mount",
            hint="A mount is SRC, SRC:DST or SRC:DST:ro; a path with ':' cannot be mounted.",
        )
    for path in (source, target):
        _check_path(path, runtime, where="--mount")
        if not path.startswith("/"):
            raise ConfigError(
                f"{path!r} is not an absolute path", where="--mount", hint="Write it from the root: /data."
            )
        if ".." in PurePosixPath(path).parts:
            raise ConfigError(f"{path!r} contains '..'", where="--mount", hint="Write the path without it.")
    return Mount(source, str(PurePosixPath(target)).replace("//", "/"), "ro" in flags)


def _check_path(path: str, runtime: ContainerRuntime, *, where: str) -> None:
    refused = UNMOUNTABLE + runtime.unmountable
    wrong = next((sign for sign in path if sign in refused or ord(sign) < 32 or ord(sign) == 127), None)
    if wrong:
        whose = runtime.name if wrong in runtime.unmountable else "the runtimes"
        raise ConfigError(
            f"{path!r} contains {wrong!r}, which a list of mounts of {whose} cannot express",
            where=where,
            hint="Choose another path, or make a symbolic link with another name.",
        )


def mount_warnings(mounts: Iterable[Mount], image: Image) -> list[str]:
    """Return a sentence for each mount that hides what the image needs to run."""
    needed = sorted({*_NEEDED, *image.needed})
    found = []
    for mount in mounts:
        target = PurePosixPath(mount.target)
        hidden = [path for path in needed if PurePosixPath(path).is_relative_to(target)]
        if hidden:
            found.append(f"the mount at {mount.target} hides the image's own {', '.join(hidden[:3])}")
    return found
