"""Likely causes that do not depend on the fabric: NVLink within a node and beyond. Pure.

Those of a fabric are in its module in launcher/contract/fabrics.
"""

from ...contract.fabrics.verdict import Cause, NodeView, Selection

COMPLETED = 3
"""NVML_GPU_FABRIC_STATE_COMPLETED (nvml.h): the node has joined its NVLink domain."""


def mnnvl(selection: Selection, view: NodeView) -> Cause:
    """Return why NVLink does not reach beyond the node."""
    for name in ("NCCL_MNNVL_ENABLE", "NCCL_CUMEM_ENABLE"):
        if view.environment.get(name) == "0":
            return Cause(f"{name}=0 switches it off")
    failed = selection.line("imex")
    if failed:
        return Cause("NVLink memory cannot be shared between nodes: IMEX (channels, nvidia-imex on each node)", failed)
    if view.imex is False:
        return Cause("the rank sees no channel in /dev/nvidia-caps-imex-channels: IMEX is not set up for this job")
    state = selection.fabric_state
    if state is not None and state != COMPLETED:
        return Cause(f"the node has not joined its NVLink domain (fabric state {state})", selection.line("fabric"))
    return Cause(
        "the nodes are not in one NVLink domain, or IMEX does not run on all of them",
        selection.line("clique", "fabric"),
    )


def local(view: NodeView) -> Cause:
    """Return why GPUs of one node do not reach each other directly."""
    for name in ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL"):
        if view.environment.get(name):
            return Cause(f"{name}={view.environment[name]}")
    return Cause(
        "the ranks do not see each other's GPUs (--gpus-per-task, --gpu-bind, separate containers), or NVLink is down "
        "(nvidia-smi nvlink --status)"
    )
