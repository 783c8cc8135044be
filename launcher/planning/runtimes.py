"""The ways into an image, one function each: from values to what the scripts need.

`pyxis` is a plugin of srun's: everything is said in srun's options (https://github.com/NVIDIA/pyxis). `enroot` and
`bwrap` (bubblewrap) are called by enter.sh on each node. All give a task the same files, environment and directory;
what still differs is listed below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.contract.variables import RANK_VARIABLES
from launcher.planning.model import Container, Mount

DIFFERENT_VARIABLES = ("SHLVL", "SLURM_TASK_PID", "_")
"""Variables that differ between runtimes: how many shells stand before the program, and which process is the task's."""

DIFFERENT_FILES = ("/.lock", "/etc/gshadow-", "/etc/rc.local", "/etc/shadow-")
"""What enroot and pyxis put into a container's root for their own use, and what their tools leave there."""

DIFFERENCES = (
    "files in /tmp: with pyxis in a tmpfs of each step; with enroot and bwrap on the scratch disk, for a job's steps",
    "files in /run: with pyxis seen by all tasks of a node; with enroot and bwrap by one task",
    "signals that Slurm sends to a task's first process alone: enter.sh passes them on to step.sh",
    "PMIx: what a site's hooks mount for it under pyxis is not there with bwrap; --mpi=none and pmi2 need no files",
    "devices: with pyxis and enroot the site's hooks choose (NVIDIA_VISIBLE_DEVICES, ...); with bwrap all are there",
)
"""What else differs, in spite of all that is done here."""


@dataclass(frozen=True)
class Inside:
    """What is to be inside a container, and by what name."""

    image: str
    label: str
    mounts: tuple[Mount, ...]
    run_dir: str
    writable: bool
    named: tuple[str, ...]
    scratch: str | None


def pyxis(inside: Inside) -> Container:
    """srun's options of the pyxis plugin, except the container's name, which the script completes."""
    entries = [f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "") for mount in inside.mounts]
    srun_args = (
        f"--container-image={inside.image}",
        f"--container-mounts={','.join(entries)}",
        f"--container-workdir={inside.run_dir}",
        "--no-container-mount-home",
        # A site may have chosen otherwise for those who say nothing: the image's own entry point is never run.
        "--no-container-entrypoint",
        "--container-writable" if inside.writable else "--container-readonly",
        # The image's variables win over the job's unless named here.
        f"--container-env={','.join(inside.named)}",
    )
    return Container("pyxis", inside.label, inside.writable, srun_args, (), inside.named, None)


def enroot(inside: Inside) -> Container:
    """`enroot start --mount`: entries of fstab(5), where spaces and backslashes are written in octal."""
    words = []
    for mount in inside.mounts:
        flags = "x-create=auto,rbind" + (",ro" if mount.read_only else "")
        words += ["--mount", f"{_fstab(mount.source)}:{_fstab(mount.target)}:{flags}"]
    return Container("enroot", inside.label, inside.writable, (), tuple(words), _named(inside), inside.scratch)


def bwrap(inside: Inside) -> Container:
    """`bwrap --bind`: three words for each mount, any path as it is."""
    words = []
    for mount in inside.mounts:
        words += ["--ro-bind" if mount.read_only else "--bind", mount.source, mount.target]
    return Container("bwrap", inside.label, inside.writable, (), tuple(words), _named(inside), inside.scratch)


RUNTIMES: Mapping[str, Callable[[Inside], Container]] = {"pyxis": pyxis, "enroot": enroot, "bwrap": bwrap}


def _named(inside: Inside) -> tuple[str, ...]:
    """Of a local run the rank's own variables come from outside, too."""
    return tuple(sorted({*inside.named, *RANK_VARIABLES}))


def _fstab(path: str) -> str:
    for sign in ("\\", " "):
        path = path.replace(sign, f"\\{ord(sign):03o}")
    return path
