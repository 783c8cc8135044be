"""RoCE: verbs over Ethernet."""

from . import verbs
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
    return verbs.has_link(device, "Ethernet")


ROCE = Fabric(
    name="roce",
    title="RoCE",
    accepts=verbs.accepts,
    judge=verbs.judge,
    why_not=verbs.why_not,
    variables=_variables,
    owns=_owns,
    log_rules=verbs.LOG,
    lint_rules=verbs.LINT,
    read_variables=verbs.READ_VARIABLES,
    probe="ibstat",
)
