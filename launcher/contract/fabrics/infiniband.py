"""InfiniBand, with SHARP where the switches reduce.

Sources: coreweave/nccl-tests (cb86553): NCCL_NET_PLUGIN=none selects NCCL's own transport (its issue 100 on spcx), and
the two variables of SHARP. CollNet itself comes from a plugin: Mellanox/nccl-rdma-sharp-plugins.
"""

from . import net_ib
from .model import Device, Fabric, NetworkRequest, NetworkVariables
from .verdict import Cause, Expectation, NodeView, Selection, Verdict, bad

_OWN_TRANSPORT = (("NCCL_NET_PLUGIN", "none"),)
_SHARP = (("NCCL_COLLNET_ENABLE", "1"), ("SHARP_COLL_ENABLE_PCI_RELAXED_ORDERING", "1"))


def _variables(request: NetworkRequest) -> NetworkVariables:
    # spcx is for Spectrum-X Ethernet; NCCL's own transport needs no plugin.
    plain = _OWN_TRANSPORT if request.presets_spcx else ()
    if not request.sharp:
        return NetworkVariables(plain)
    if request.plugins is None:
        return NetworkVariables(_SHARP, unchecked=("NCCL's plugin for SHARP: there is no image to look into",))
    plugin = next((each for each in request.plugins if any(map(_can_reduce, each.names))), None)
    if plugin is None:
        text = f"the image {request.image} has no plugin of NCCL that knows SHARP (nccl-rdma-sharp-plugins, in HPC-X)"
        return NetworkVariables((*_SHARP, *plain), warnings=(f"{text}: the profile's sharp = true has no effect",))
    pinned = (("NCCL_NET_PLUGIN", plugin.path),) if request.presets_spcx else ()
    return NetworkVariables((*_SHARP, *pinned), f"SHARP by {plugin.path}")


def _can_reduce(name: str) -> bool:
    return name.startswith(("IBext", "NCCL RDMA Plugin", "UCX"))


def _judge(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    if any(port.endswith("/IB") for port in selection.hcas):
        return net_ib.judge(selection, expected, view)
    cause = Cause("NCCL_IB_HCA leaves out the InfiniBand ports, or their links are down")
    what = f"NCCL uses Ethernet ports (RoCE: {', '.join(selection.hcas)}), and infiniband is expected"
    return net_ib.judge(selection, expected, view, bad(what, cause, selection.line("hcas")))


def _owns(device: Device) -> bool:
    return net_ib.has_link(device, "InfiniBand")


FABRIC = Fabric(
    name="infiniband",
    title="InfiniBand",
    accepts=net_ib.accepts,
    judge=_judge,
    why_not=net_ib.why_not,
    variables=_variables,
    owns=_owns,
    sharp=True,
    log_rules=net_ib.LOG,
    lint_rules=net_ib.LINT,
    read_variables=net_ib.READ_VARIABLES,
    probe="ibstat",
    nsys_option="--nic-metrics",
)
