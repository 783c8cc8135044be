"""RoCE: RDMA over Converged Ethernet."""

from . import net_ib
from .model import Device, Fabric, NetworkRequest, NetworkVariables

_SPECTRUM_X = (
    "whether this RoCE is Spectrum-X, for which the image sets NCCL_NET_PLUGIN=spcx (else the profile's [env] "
    "sets it to none)"
)


def _variables(request: NetworkRequest) -> NetworkVariables:
    if not request.presets_spcx or "NCCL_NET_PLUGIN" in request.stated:
        return NetworkVariables()
    return NetworkVariables(unchecked=(_SPECTRUM_X,))


def _owns(device: Device) -> bool:
    return net_ib.has_link(device, "Ethernet")


FABRIC = Fabric(
    name="roce",
    title="RoCE",
    accepts=net_ib.accepts,
    judge=net_ib.judge,
    why_not=net_ib.why_not,
    variables=_variables,
    owns=_owns,
    log_rules=net_ib.LOG,
    lint_rules=net_ib.LINT,
    read_variables=net_ib.READ_VARIABLES,
    probe="ibstat",
)
