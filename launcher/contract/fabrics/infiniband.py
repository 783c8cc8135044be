"""InfiniBand, with SHARP where the switches reduce.

Sources: coreweave/nccl-tests (cb86553): NCCL_NET_PLUGIN=none selects NCCL's own transport (its issue 100 on spcx), and
the two variables of SHARP. CollNet itself comes from a plugin: Mellanox/nccl-rdma-sharp-plugins. Lines about it: NCCL
2.8 to 2.30 (src/init.cc, src/transport/coll_net.cc, src/transport.cc), the plugin's src/sharp_plugin.c; issues
NVIDIA/nccl 1219, nccl-tests 311, nccl-rdma-sharp-plugins 151.
"""

from collections.abc import Iterator
from dataclasses import replace

from . import net_ib
from .common import NOT_SOCKET
from .model import Device, Fabric, NetworkRequest, NetworkVariables
from .verdict import GOOD, Cause, Expectation, NodeView, Selection, Verdict, bad, log_rule, set_field

# ---- planning

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


# ---- in the job

_SHARP_LOG = (
    log_rule(r"NET/Plugin ?: Loaded coll(?:net)? plugin (.+?) \(v\d+\)", "collnet", set_field("collnet")),
    log_rule(r"^COLL(?:NET)? plugin (\S+)", "collnet", set_field("collnet")),
    log_rule(
        r"Connected CollNet$| via COLLNET/|, [1-9]\d* collnet channels",
        "collnet_up",
        lambda _selection, _match: {"collnet_up": True},
    ),
    log_rule(r"Cannot initialize CollNet|CollNet is not supported or fails to initialize", "collnet_off"),
    log_rule(
        r"SHARP group create: .*failed|[Ss]harp.* (?:init|comm_init|group).* failed|SHARP .*not initialized", "sharp"
    ),
)


def _judge(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    found = _judge_ports(selection, expected, view)
    if not expected.sharp or found.word != GOOD:
        return found
    why = next(_no_sharp(selection, view), None)
    if why is not None:
        # NCCL goes on without it, and so does the run.
        what = f"NCCL does not reduce in the switches (SHARP), as sharp = true expects; {found.what}"
        return bad(what, why, ends=False)
    seen = "with SHARP" if selection.collnet_up else "no communicator has used SHARP so far"
    return replace(found, what=f"{found.what}; {seen}")


def _no_sharp(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield why NCCL does not use SHARP, where its log shows that."""
    if selection.collnet_up:
        return
    if view.environment.get("NCCL_COLLNET_ENABLE") == "0":
        yield Cause("NCCL_COLLNET_ENABLE=0 switches it off")
    line = selection.line("sharp")
    if line is not None:
        yield Cause(
            "the SHARP plugin could not reserve the switches: the service sharp_am, its limits, or another job that "
            "holds them",
            line,
        )
    line = selection.line("collnet_off")
    if line is not None:
        yield Cause("NCCL could not set up CollNet: see the lines of the SHARP plugin in the rank's log", line)
    if selection.completed and selection.collnet is None:
        yield Cause(
            "no plugin for it was loaded: the image lacks nccl-rdma-sharp-plugins (HPC-X), or NCCL_NET_PLUGIN names "
            "another",
            selection.line("plugin_missing", "plugin", "plugin_path"),
        )


def _judge_ports(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
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
    networks=NOT_SOCKET,
    judge=_judge,
    why_not=net_ib.why_not,
    variables=_variables,
    owns=_owns,
    sharp=True,
    log_rules=(*net_ib.LOG, *_SHARP_LOG),
    lint_rules=net_ib.LINT,
    read_variables=net_ib.READ_VARIABLES,
    probe="ibstat",
    nsys_option="--nic-metrics",
)
