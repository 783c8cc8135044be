"""enroot: enter.sh unpacks and starts the image with it on each node (https://github.com/NVIDIA/enroot).

Where a task differs from one in pyxis: /tmp is on the scratch disk and lives as long as the job's steps; each task has
its own /run; enter.sh passes on the signals that Slurm sends to a task's first process alone. Its hooks choose the
devices (NVIDIA_VISIBLE_DEVICES, ...).
"""

from launcher.contract.variables import RANK_VARIABLES
from launcher.runtimes.model import Container, ContainerRequest, ContainerRuntime


def container(request: ContainerRequest) -> Container:
    """Return the container with its mounts as `enroot start --mount` takes them: entries of fstab(5)."""
    words = []
    for mount in request.mounts:
        flags = "x-create=auto,rbind" + (",ro" if mount.read_only else "")
        words += ["--mount", f"{_fstab(mount.source)}:{_fstab(mount.target)}:{flags}"]
    # In a local run a rank's own variables come from outside the container as well.
    named = tuple(sorted({*request.named, *RANK_VARIABLES}))
    return Container("enroot", request.label, request.writable, (), tuple(words), named, request.scratch)


def _fstab(path: str) -> str:
    """Write backslashes and spaces in octal."""
    for sign in ("\\", " "):
        path = path.replace(sign, f"\\{ord(sign):03o}")
    return path


ENROOT = ContainerRuntime(
    name="enroot",
    title="called by enter.sh on each node",
    container=container,
    programs=("enroot", "unsquashfs"),
    nvidia_hooks=True,
    enter_template="enter_enroot.sh.j2",
    unmountable=",:",
)
