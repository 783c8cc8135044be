"""Slingshot, HPE's network: NCCL reaches it through libfabric's provider cxi and the plugin aws-ofi-nccl.

Sources: HewlettPackard/shs-ccl-docs (pull request 35: the plugin's network is called OFI in its newer releases);
https://docs.cscs.ch/software/communication/nccl/.
"""

from . import ofi
from .common import OFI
from .model import Fabric, LintRule, NetworkRequest, NetworkVariables


def _variables(request: NetworkRequest) -> NetworkVariables:
    """Name the provider, and the plugin where it is in the image; sites mount their own with their libfabric."""
    provider = (("FI_PROVIDER", "cxi"),)
    if request.plugins is None or "NCCL_NET_PLUGIN" in request.stated:
        return NetworkVariables(provider)
    found = ofi.find_plugin(request.plugins)
    if found is not None:
        return NetworkVariables((*provider, ("NCCL_NET_PLUGIN", found.path)), f"plugin {found.path}")
    if request.nodes == 1 or request.policy == "off":
        return NetworkVariables(provider)
    text = (
        f"the image {request.image} has no aws-ofi-nccl: unless the site mounts it, NCCL falls back to TCP on Slingshot"
    )
    return NetworkVariables(provider, warnings=(text,))


_PROVIDER = ofi.Libfabric("cxi", "Slingshot", "FI_CXI_DEVICE_NAME", "/dev/cxi*")

FABRIC = Fabric(
    name="slingshot",
    title="Slingshot",
    networks=OFI,
    judge=_PROVIDER.judge,
    why_not=_PROVIDER.why_not,
    variables=_variables,
    rdma=False,
    without_mlx5=True,
    log_rules=ofi.LOG,
    lint_rules=(
        LintRule(
            "FI_PROVIDER",
            "contradictory",
            "the profile's network is Slingshot, and libfabric is to use another provider",
            "leave it out, or FI_PROVIDER=cxi",
            "https://docs.cscs.ch/software/communication/nccl/",
            value="(?!.*cxi).*",
        ),
    ),
    read_variables=ofi.READ_VARIABLES,
    probe="fi_info -p cxi",
    provider="cxi",
)
