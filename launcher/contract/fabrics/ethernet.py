"""Plain Ethernet: TCP, so that every network of NCCL's is at least as good."""

from .model import Fabric
from .verdict import GOOD, Cause, Expectation, NodeView, Selection, Verdict


def _judge(selection: Selection, _expected: Expectation, _view: NodeView) -> Verdict:
    return Verdict(GOOD, f"NCCL uses network {', '.join(selection.networks)}")


def _why_not(_selection: Selection, _view: NodeView) -> Cause:
    return Cause("no interface is left (NCCL_SOCKET_IFNAME), or NCCL_NET names none")


FABRIC = Fabric(
    name="ethernet",
    title="Ethernet",
    networks=".*",
    judge=_judge,
    why_not=_why_not,
    rdma=False,
    gdr=False,
)
