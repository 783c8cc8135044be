"""FasTrak (GPUDirect-TCPXO): TCP of Google's A3 Mega machines from and to the memory of GPUs, through Google's plugin.

The nodes carry it below /var/lib/tcpxo, which a profile mounts: GoogleCloudPlatform/cluster-toolkit 1047080,
examples/machine-learning/a3-megagpu-8g/nccl-tests/run-nccl-tests.sh. A daemon on each node (RxDM) pins the memory of
the GPUs. The plugin begins its lines with NET/FasTrak (google/nccl-plugin-gpudirect-tcpxo).
"""

from collections.abc import Iterator
from functools import partial

from .common import asked_for, google_plugin
from .model import Fabric
from .verdict import GOOD, Cause, Expectation, NodeView, Selection, Verdict, log_rule, set_field

_LOG = (
    log_rule(r"NET/FasTrak .*(?:[Vv]ersion|plugin) v?(\d[\w.]*)", "fastrak", set_field("plugin_version")),
    log_rule(r"NET/FasTrak.*(?:fail|Fail|error|Unable|unable|larger than maximum|timed? ?out)", "fastrak_failed"),
)


def _judge(selection: Selection, _expected: Expectation, _view: NodeView) -> Verdict:
    version = f" (plugin {selection.plugin_version})" if selection.plugin_version else ""
    return Verdict(GOOD, f"NCCL uses FasTrak{version}")


def _why_not(selection: Selection, view: NodeView) -> Cause:
    return next(_causes(selection, view))


def _causes(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield likely causes, the most telling first; there is always one."""
    yield from asked_for(view)
    broken = selection.line("plugin_broken")
    if broken:
        yield Cause("the FasTrak plugin was found and cannot be loaded", broken)
    failed = selection.line("fastrak_failed")
    if failed:
        yield Cause(
            "the FasTrak plugin was loaded and did not start: the daemon RxDM on the node, /dev/aperture_devices in "
            "the container, NCCL_FASTRAK_IFNAME",
            failed,
        )
    yield Cause(
        "the FasTrak plugin was not found: mount /var/lib/tcpxo/lib64, and put it in front of LD_LIBRARY_PATH",
        selection.line("plugin_missing", "plugin"),
    )


FABRIC = Fabric(
    name="fastrak",
    title="FasTrak",
    networks="FasTrak",
    judge=_judge,
    why_not=_why_not,
    variables=partial(google_plugin, "FasTrak"),
    rdma=False,
    gdr=False,
    without_mlx5=True,
    log_rules=_LOG,
    read_variables=("FASTRAK_",),
    probe="ls /var/lib/tcpxo",
)
