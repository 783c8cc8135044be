"""bubblewrap: enter.sh unpacks the image on each node and starts tasks in it with bwrap.

It needs no privileges and no configuration of the site. Where a task differs from one in pyxis: /tmp is on the scratch
disk and lives as long as the job's steps; each task has its own /run; all of the node's devices are there; what a
site's hooks mount for PMIx is not (--mpi=none and pmi2 need no files).
"""

from launcher.contract.variables import RANK_VARIABLES
from launcher.runtimes.model import Container, ContainerRequest, ContainerRuntime


def container(request: ContainerRequest) -> Container:
    """Return the container with its mounts as bwrap's options: three words each, any path as it is."""
    words = []
    for mount in request.mounts:
        words += ["--ro-bind" if mount.read_only else "--bind", mount.source, mount.target]
    # In a local run a rank's own variables come from outside the container as well.
    named = tuple(sorted({*request.named, *RANK_VARIABLES}))
    return Container("bwrap", request.label, request.writable, (), tuple(words), named, request.scratch)


BWRAP = ContainerRuntime(
    name="bwrap",
    title="bubblewrap, called by enter.sh on each node",
    container=container,
    programs=("bwrap", "unsquashfs"),
    enter_template="enter_bwrap.sh.j2",
    inside_template="enter_login.sh.j2",
)
