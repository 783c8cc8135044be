"""EFA, Amazon's Elastic Fabric Adapter: NCCL reaches it through libfabric and the plugin aws-ofi-nccl.

Sources: awslabs/awsome-distributed-ai (EFA cheat sheet, 95b939c); aws/aws-ofi-nccl `src/platform-aws.cpp` (2daf7d3):
the plugin itself sets what suits an instance, so that few variables remain; NVIDIA-NeMo/Megatron-Bridge
`scripts/performance/utils/csp_plugins.py` (067f987): images of NGC since 26.06 set NCCL_NET_PLUGIN=spcx, which cannot
drive EFA, and NCCL falls back to TCP. Log lines: aws-ofi-nccl 1.4 to 2daf7d3 (src/nccl_ofi_net.cpp).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from .common import asked_for, why_fewer
from .model import Device, Fabric, LintRule, NetPlugin, NetworkRequest, NetworkVariables
from .verdict import GOOD, UNKNOWN, Cause, Expectation, NodeView, Selection, Verdict, added, bad, log_rule, set_field

# ---- planning

_PLUGIN_NAMES = frozenset(("Libfabric", "AWS Libfabric", "OFI"))
"""Names by which aws-ofi-nccl is known; which of them it accepts differs between its releases."""

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
    found = _plugin(request.plugins)
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


def _plugin(plugins: Sequence[NetPlugin]) -> Optional[NetPlugin]:
    return next((each for each in plugins if _PLUGIN_NAMES & set(each.names)), None)


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

# ---- in the job


def is_ofi(name: str) -> bool:
    """Whether this names aws-ofi-nccl: "Libfabric", "AWS Libfabric", .../ofi-nccl/lib/libnccl-net.so."""
    return re.search(r"libfabric|(?<![a-z])ofi(?![a-z])", name.lower()) is not None


def _provider(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    nics = int(match[3]) if match[3] else selection.nics
    return {
        "providers": added(selection.providers, match[1]),
        "fabric": match[2] or selection.fabric,
        "nics": nics if selection.nics is None or nics is None else min(nics, selection.nics),
    }


_LOG = (
    log_rule(
        r"NET/OFI Selected [Pp]rovider is ([^,\s]+)(?:, fabric is (\S+))?(?: \(found (\d+) nics?\))?",
        "provider:{0}",
        _provider,
    ),
    log_rule(r"NET/OFI (?:Initializing|Using) (aws-ofi-nccl \S+)", "", set_field("plugin_version")),
    log_rule(r"NET/OFI Using Libfabric version (\S+)", "", set_field("libfabric")),
    log_rule(r"NET/OFI Using transport protocol (\w+)", "", set_field("protocol")),
    log_rule(r"NET/OFI No eligible providers", "ofi_failed"),
    log_rule(r"^NET/OFI .*(?:fail|Fail|Unable|requires at least|Only EFA)", "ofi_failed"),
)


def _wrong_provider(selection: Selection) -> Optional[str]:
    return next((name for name in selection.providers if not name.startswith("efa")), None)


def _judge(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    wrong = _wrong_provider(selection)
    if wrong is not None:
        what = f"libfabric's provider is {wrong}, and efa is expected"
        return bad(what, _why_not(selection, view), selection.line(f"provider:{wrong}"))
    if not selection.providers:
        return Verdict(UNKNOWN, f"NCCL uses network {selection.networks[0]} and has not said which provider")
    if expected.too_few(selection.nics):
        what = f"libfabric found {selection.nics} NICs, and {expected.nics_per_node} are expected on each node"
        return bad(what, why_fewer("FI_EFA_IFACE", view), selection.line(f"provider:{selection.providers[0]}"))
    parts = (selection.plugin_version, selection.protocol, f"{selection.nics} NICs" if selection.nics else None)
    more = "".join(f", {part}" for part in parts if part)
    return Verdict(GOOD, f"NCCL uses EFA (provider {selection.providers[0]}{more})")


def _why_not(selection: Selection, view: NodeView) -> Cause:
    return next(_causes(selection, view))


def _causes(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield likely causes, the most telling first; there is always one."""
    yield from asked_for(view)
    if _wrong_provider(selection) is not None:
        yield Cause(
            "libfabric found no EFA device: pass /dev/infiniband into the container, give FI_PROVIDER no other value, "
            "and load the EFA installer's libfabric",
            selection.line(*(f"provider:{name}" for name in selection.providers)),
        )
    broken = selection.line("plugin_broken")
    if broken:
        yield Cause("the plugin aws-ofi-nccl was found and cannot be loaded (its libfabric, LD_LIBRARY_PATH)", broken)
    loaded = " ".join(each for each in (selection.plugin, selection.plugin_path) if each)
    if loaded and not is_ofi(loaded):
        chosen = view.environment.get("NCCL_NET_PLUGIN")
        how = f"NCCL_NET_PLUGIN={chosen}" if chosen else "the image's default"
        yield Cause(
            f"the plugin {loaded} ({how}) cannot drive EFA: point NCCL_NET_PLUGIN at aws-ofi-nccl's library",
            selection.line("plugin", "plugin_path"),
        )
    if loaded or selection.plugin_version:
        line = selection.line("ofi_failed", "failed:Libfabric", "failed:AWS Libfabric", "plugin", "plugin_path")
        hidden = ": there is no /dev/infiniband/uverbs* in the container" if view.uverbs is False else ""
        yield Cause(f"aws-ofi-nccl was loaded and found no device that it can use{hidden}", line)
    named = view.environment.get("NCCL_NET_PLUGIN")
    wanted = f"the plugin {named} (NCCL_NET_PLUGIN)" if named else "NCCL's plugin for EFA"
    yield Cause(
        f"{wanted} was not found: the image lacks aws-ofi-nccl, or LD_LIBRARY_PATH does not lead to it, "
        "or its file has another name",
        selection.line("plugin_missing"),
    )


# ---- devices

_AMAZON = "0x1d0f"
"""The PCI vendor (https://pci-ids.ucw.cz)."""


def owns(device: Device) -> bool:
    """Whether a device is one of Amazon's; newer kernels call them rdmap0s0, older ones efa_0."""
    return device.vendor == _AMAZON or (not device.vendor and device.name.startswith(("efa", "rdmap")))


FABRIC = Fabric(
    name="efa",
    title="EFA",
    accepts=is_ofi,
    judge=_judge,
    why_not=_why_not,
    variables=_variables,
    owns=owns,
    without_mlx5=True,
    log_rules=_LOG,
    lint_rules=_LINT,
    read_variables=("FI_", "OFI_NCCL_"),
    probe="fi_info -p efa",
    provider="efa",
    nsys_plugin="efa_metrics",
)
