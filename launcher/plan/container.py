"""The image and the mounts of a task, and pyxis' options for them."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from launcher.errors import SpecError
from launcher.plan.model import Mount


def read_mounts(texts: Iterable[str]) -> tuple[Mount, ...]:
    """Understand `SRC[:DST[:ro]]`. Raises SpecError; pyxis splits its list at `,` and `:` and knows no escape."""
    mounts = []
    for text in texts:
        source, *rest = text.split(":")
        target = rest[0] if rest and rest[0] not in ("ro", "rw") else source
        flags = [part for part in rest[1:] or rest if part in ("ro", "rw")]
        if len(rest) > 2 or (len(rest) == 2 and not flags):
            raise SpecError(f"{text!r} is no mount", where="--mount", hint="A mount is SRC, SRC:DST or SRC:DST:ro.")
        for path in (source, target):
            if not path.startswith("/") or any(sign in path for sign in ",\n\0"):
                raise SpecError(
                    f"{path!r} cannot be mounted: pyxis needs absolute paths without ',' and ':'", where="--mount"
                )
        mounts.append(Mount(source, str(PurePosixPath(target)), "ro" in flags))
    return tuple(mounts)


def pyxis_args(
    *, image: str, mounts: Iterable[Mount], run_dir: str, writable: bool, named: Iterable[str]
) -> tuple[str, ...]:
    """srun's options of the pyxis plugin (https://github.com/NVIDIA/pyxis).

    The run directory is mounted at its own path. Raises SpecError if pyxis could not read that path.
    """
    if any(sign in run_dir for sign in ",:"):
        raise SpecError(
            f"the run directory {run_dir!r} cannot be mounted: pyxis needs paths without ',' and ':'",
            where="--run-root",
        )
    entries = [f"{run_dir}:{run_dir}"]
    entries += [f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "") for mount in mounts]
    return (
        f"--container-image={image}",
        f"--container-mounts={','.join(entries)}",
        f"--container-workdir={run_dir}",
        "--no-container-mount-home",
        "--container-writable" if writable else "--container-readonly",
        # The image's variables win over the job's unless named here.
        f"--container-env={','.join(named)}",
    )
