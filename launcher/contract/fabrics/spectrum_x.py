"""Spectrum-X: RoCE on NVIDIA's Ethernet switches, through NCCL's own transport or NVIDIA's plugin spcx.

coreweave/nccl-tests cb86553, slurm/nccl-test-distributed-gb300-roce-nvl72-enroot.slurm: without the plugin jobs up to
some 10,000 GPUs are faster, so that `none` is the default; a profile's [env] or --env says spcx for larger ones.
"""

from . import net_ib, roce
from .common import NOT_SOCKET
from .model import Fabric, NetworkRequest, NetworkVariables

_LARGE = 10_000
"""The number of ranks from which CoreWeave advises the plugin."""


def _variables(request: NetworkRequest) -> NetworkVariables:
    advice: tuple[str, ...] = ()
    if request.ranks >= _LARGE:
        advice = (f"whether NCCL_NET_PLUGIN=spcx is faster: its site advises it from {_LARGE} GPUs on",)
    if not request.presets_spcx:
        return NetworkVariables(unchecked=advice)
    return NetworkVariables((("NCCL_NET_PLUGIN", "none"),), "NCCL's own transport instead of spcx", unchecked=advice)


FABRIC = Fabric(
    name="spectrum-x",
    title="Spectrum-X",
    networks=NOT_SOCKET,
    judge=net_ib.judge,
    why_not=net_ib.why_not,
    variables=_variables,
    owns=roce.FABRIC.owns,
    log_rules=net_ib.LOG,
    lint_rules=net_ib.LINT,
    read_variables=net_ib.READ_VARIABLES,
    probe="ibstat",
    nsys_option="--nic-metrics",
)
