"""EFA, Amazon's Elastic Fabric Adapter: NCCL reaches it through libfabric and the plugin aws-ofi-nccl.

Sources: awslabs/awsome-distributed-ai (EFA cheat sheet, 95b939c); aws/aws-ofi-nccl `src/platform-aws.cpp` (2daf7d3):
the plugin itself sets what suits an instance, so that few variables remain; NVIDIA-NeMo/Megatron-Bridge
`scripts/performance/utils/csp_plugins.py` (067f987): images of NGC since 26.06 set NCCL_NET_PLUGIN=spcx, which cannot
drive EFA, and NCCL falls back to TCP.
"""

from typing import Optional

from . import ofi
from .common import OFI
from .model import Device, Fabric, LintRule, NetPlugin, NetworkRequest, NetworkVariables

# ---- planning

_NO_PLUGIN_HINT = (
    "Use an image with aws-ofi-nccl, or mount the nodes' own into it and name it: --mount /opt/amazon "
    "--env NCCL_NET_PLUGIN=/opt/amazon/ofi-nccl/lib/libnccl-net.so."
)

_ALWAYS = (
    # Without libfabric's own TCP among the candidates a missing device is an error, not a slow run.
    ("FI_PROVIDER", "efa"),
    # Memory in huge pages cannot be copied on write: a fork (DataLoader) may fail for want of memory.
    ("FI_EFA_USE_HUGE_PAGE", "0"),
)


def _variables(request: NetworkRequest) -> NetworkVariables:
    """Pin the plugin by its path, and by its name where a run must not go on without it."""
    if request.plugins is None:
        why = "its contents could not be read" if request.image else "there is no image to look into"
        return NetworkVariables(
            _ALWAYS, unchecked=(f"NCCL's plugin for EFA: {why}, so NCCL_NET_PLUGIN and NCCL_NET stay as set",)
        )
    found = ofi.find_plugin(request.plugins)
    if "NCCL_NET_PLUGIN" in request.stated:
        # The user knows where it is; a name may be pinned only for a plugin that was seen.
        path = request.stated["NCCL_NET_PLUGIN"]
        stated = next((each for each in request.plugins if each.path == path), None)
        return NetworkVariables((*_ALWAYS, *_pin_path(found), *_pin_name(request, stated)), path)
    if found is None:
        return _without_plugin(request)
    pinned = _pin_name(request, found)
    name = "".join(f", NCCL_NET={value}" for _, value in pinned)
    return NetworkVariables((*_ALWAYS, *_pin_path(found), *pinned), f"plugin {found.path}{name}")


def _pin_path(plugin: Optional[NetPlugin]) -> tuple[tuple[str, str], ...]:
    return (("NCCL_NET_PLUGIN", plugin.path),) if plugin else ()


def _pin_name(request: NetworkRequest, plugin: Optional[NetPlugin]) -> tuple[tuple[str, str], ...]:
    """Return the name that NCCL then insists on: a fall-back is an error, so only where the fabric is required."""
    if plugin is None or not plugin.names or request.policy != "require":
        return ()
    return (("NCCL_NET", plugin.names[0]),)


def _without_plugin(request: NetworkRequest) -> NetworkVariables:
    """Refuse or warn about an image that cannot use EFA; a run on one node uses NVLink alone."""
    if request.image is None or request.nodes == 1 or request.policy == "off":
        return NetworkVariables(_ALWAYS)
    preset = request.image_environment.get("NCCL_NET_PLUGIN")
    sets = f" (it sets NCCL_NET_PLUGIN={preset}, which cannot drive EFA)" if preset else ""
    text = f"the image {request.image} has no aws-ofi-nccl{sets}: on EFA its NCCL falls back to TCP"
    if request.policy == "require":
        return NetworkVariables(_ALWAYS, refusal=(text, _NO_PLUGIN_HINT))
    return NetworkVariables(_ALWAYS, warnings=(f"{text}. {_NO_PLUGIN_HINT}",))


_SHEET = "awslabs/awsome-distributed-ai 95b939c, EFA cheat sheet"

_LINT = (
    LintRule(
        "RDMAV_.*",
        "obsolete",
        "it is libibverbs' own way to survive a fork, which EFA's provider of libfabric handles itself",
        "leave it out",
        _SHEET,
    ),
    LintRule(
        "NCCL_PROTO",
        "obsolete",
        "it was needed on EFA up to aws-ofi-nccl 1.5, and takes NCCL's faster protocols away since",
        "leave it out",
        _SHEET,
        value="simple",
    ),
    LintRule(
        "NCCL_NET_PLUGIN",
        "contradictory",
        "EFA is reached through the plugin aws-ofi-nccl alone, and this takes another or none: NCCL falls back to TCP",
        "leave it out, or give the path of aws-ofi-nccl",
        "NVIDIA-NeMo/Megatron-Bridge 067f987, scripts/performance/utils/csp_plugins.py",
        value="none|.*spcx.*",
    ),
    LintRule(
        "FI_PROVIDER",
        "contradictory",
        "the profile's network is EFA, and libfabric is to use another provider",
        "leave it out, or FI_PROVIDER=efa",
        _SHEET,
        value="(?!.*efa).*",
    ),
)

# ---- devices

_AMAZON = "0x1d0f"
"""The PCI vendor (https://pci-ids.ucw.cz)."""


def owns(device: Device) -> bool:
    """Whether a device is one of Amazon's; newer kernels call them rdmap0s0, older ones efa_0."""
    return device.vendor == _AMAZON or (not device.vendor and device.name.startswith(("efa", "rdmap")))


_PROVIDER = ofi.Libfabric("efa", "EFA", "FI_EFA_IFACE", "/dev/infiniband/uverbs*")

FABRIC = Fabric(
    name="efa",
    title="EFA",
    networks=OFI,
    judge=_PROVIDER.judge,
    why_not=_PROVIDER.why_not,
    variables=_variables,
    owns=owns,
    without_mlx5=True,
    log_rules=ofi.LOG,
    lint_rules=_LINT,
    read_variables=ofi.READ_VARIABLES,
    probe="fi_info -p efa",
    provider="efa",
    registers_gpus=True,
    nsys_plugin="efa_metrics",
)
