"""The image of a run, its mounts, and how its tasks get in."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from launcher._util.errors import SpecError
from launcher.config.cluster import Cluster, Runtime
from launcher.config.request import Request
from launcher.discovery.image import Image
from launcher.planning import runtimes
from launcher.planning.backend import BackendTraits
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import Container, Mount, PlannedImage

# What programs of any image need, wherever its packages lie.
_NEEDED = ("/bin", "/etc", "/lib", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local/lib")


def chosen_runtime(request: Request, cluster: Cluster) -> Runtime:
    """The request's, else the profile's."""
    return request.runtime or cluster.runtime


def wanted_image(request: Request, cluster: Cluster, backend: BackendTraits) -> str | None:
    """The text that names the run's image; None on the bare machine. Raises SpecError where the two do not fit."""
    runtime = chosen_runtime(request, cluster)
    if runtime == "none":
        if request.image is not None:
            raise SpecError(
                f"--image {request.image} needs a container, but the runtime is none",
                hint="Give --runtime pyxis where the cluster has it (or enroot, bwrap), or leave the image out.",
            )
        return None
    if not backend.slurm_step and runtime == "pyxis":
        raise SpecError(
            "pyxis is a plugin of Slurm's srun, and a local run starts its ranks without Slurm",
            where="--runtime",
            hint="Enter the image with --runtime bwrap or --runtime enroot, run on the bare machine (--runtime none), "
            "or run in an allocation.",
        )
    image = request.image or cluster.image or request.default_image
    if image is None:
        raise SpecError(
            f"the runtime {runtime} of the cluster profile {cluster.name!r} needs an image",
            hint="Name one (--image NAME; `launcher image list` shows the store's), or run on the bare nodes: "
            "--runtime none.",
        )
    return image


def planned(image: Image) -> PlannedImage:
    """What the plan records of an image."""
    return PlannedImage(
        name=image.name,
        path=str(image.path),
        digest=image.digest,
        architecture=image.architecture,
        size_bytes=image.size_bytes,
        store=str(image.store) if image.store else None,
        key=image.key,
    )


def decide(
    inputs: PlanInputs, runtime: Runtime, mounts: tuple[Mount, ...], run_dir: str, named: tuple[str, ...]
) -> Container | None:
    """How tasks get into the image; None on the bare machine. Raises SpecError for paths that no runtime can mount."""
    if inputs.image is None or runtime == "none":
        return None
    scratch = inputs.cluster.scratch
    if scratch is not None:
        _check_path(scratch, where=f"scratch of the cluster profile {inputs.cluster.name!r}")
    run = hashlib.sha256(run_dir.encode()).hexdigest()[:6]
    return runtimes.RUNTIMES[runtime](
        runtimes.Inside(
            image=str(inputs.image.path),
            label=f"launcher-{inputs.image.key}-{run}",
            mounts=(Mount(run_dir, run_dir), *mounts),
            run_dir=run_dir,
            writable=inputs.cluster.container_writable,
            named=named,
            scratch=scratch,
        )
    )


def decide_mounts(
    request: Request, cluster: Cluster, runtime: Runtime, run_dir: str, needed: Iterable[str] = ()
) -> tuple[Mount, ...]:
    """The mounts besides the run directory's own; `needed` are directories that the run itself needs, to be read.

    Raises SpecError.
    """
    if runtime == "none":
        if request.mounts:
            raise SpecError(
                "--mount needs a container, but the runtime is none",
                hint="Give --image and --runtime pyxis (or enroot, bwrap).",
            )
        return ()
    _check_path(run_dir, where="--run-root")
    wanted = (*cluster.mounts, *(request.mounts or request.default_mounts))
    mounts = read_mounts((*wanted, *(f"{path}:ro" for path in needed)))
    taken = {run_dir: Mount(run_dir, run_dir)}
    for mount in mounts:
        other = taken.setdefault(mount.target, mount)
        if other != mount:
            raise SpecError(
                f"{mount.source} and {other.source} are both to be mounted at {mount.target}",
                where="--mount",
                hint="Give one of them another place: --mount SRC:DST.",
            )
    return mounts


def read_mounts(texts: Iterable[str]) -> tuple[Mount, ...]:
    """Understand `SRC[:DST][:ro|rw]`; the same one said twice is one. Raises SpecError."""
    return tuple(dict.fromkeys(_read_mount(text) for text in texts))


def _read_mount(text: str) -> Mount:
    source, *rest = text.split(":")
    target = rest[0] if rest and rest[0] not in ("ro", "rw") else source
    flags = [part for part in rest[1:] or rest if part in ("ro", "rw")]
    if len(rest) > 2 or (len(rest) == 2 and not flags):
        raise SpecError(
            f"{text!r} is no mount",
            where="--mount",
            hint="A mount is SRC, SRC:DST or SRC:DST:ro; a path with ':' cannot be mounted.",
        )
    for path in (source, target):
        _check_path(path, where="--mount")
        if not path.startswith("/"):
            raise SpecError(f"{path!r} is no absolute path", where="--mount", hint="Write it from the root: /data.")
        if ".." in PurePosixPath(path).parts:
            raise SpecError(f"{path!r} holds '..'", where="--mount", hint="Write the path that is meant.")
    return Mount(source, str(PurePosixPath(target)).replace("//", "/"), "ro" in flags)


def _check_path(path: str, *, where: str) -> None:
    wrong = next((sign for sign in path if sign in ",:" or ord(sign) < 32 or ord(sign) == 127), None)
    if wrong:
        raise SpecError(
            f"{path!r} holds {wrong!r}, and the lists of mounts that pyxis and enroot read know no way to quote it",
            where=where,
            hint="Choose another path, or make a symbolic link without it.",
        )


def mount_warnings(mounts: Iterable[Mount], image: Image) -> list[str]:
    """A sentence for each mount that hides what the image needs to run."""
    needed = sorted({*_NEEDED, *image.needed})
    found = []
    for mount in mounts:
        target = PurePosixPath(mount.target)
        hidden = [path for path in needed if PurePosixPath(path).is_relative_to(target)]
        if hidden:
            found.append(f"the mount at {mount.target} hides the image's own {', '.join(hidden[:3])}")
    return found
