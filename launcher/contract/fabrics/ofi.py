"""Fabrics that NCCL reaches through libfabric and the plugin aws-ofi-nccl: EFA and Slingshot.

Log lines: aws-ofi-nccl 1.4 to 2daf7d3 (src/nccl_ofi_net.cpp).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .common import asked_for, is_ofi, uses_gdr, why_fewer, without_gdr
from .model import NetPlugin
from .verdict import GOOD, UNKNOWN, Cause, Expectation, NodeView, Selection, Verdict, added, bad, log_rule, set_field

READ_VARIABLES = ("FI_", "OFI_NCCL_")

PLUGIN_NAMES = frozenset(("Libfabric", "AWS Libfabric", "OFI"))
"""Names by which aws-ofi-nccl is known; which of them it accepts differs between its releases."""


def find_plugin(plugins: Sequence[NetPlugin]) -> Optional[NetPlugin]:
    """Return aws-ofi-nccl among the plugins of an image."""
    return next((each for each in plugins if PLUGIN_NAMES & set(each.names)), None)


def _provider(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    nics = int(match[3]) if match[3] else selection.nics
    return {
        "providers": added(selection.providers, match[1]),
        "fabric": match[2] or selection.fabric,
        "nics": nics if selection.nics is None or nics is None else min(nics, selection.nics),
    }


LOG = (
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


@dataclass(frozen=True)
class Libfabric:
    """A fabric as a provider of libfabric."""

    provider: str
    """The beginning of the provider's names: efa, efa-direct."""
    title: str
    interfaces: str
    """The variable that names the devices to use."""
    device: str
    """The device files that the container must see."""

    def judge(self, selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
        """Judge provider, number of NICs and GPUDirect RDMA."""
        wrong = self._wrong_provider(selection)
        if wrong is not None:
            what = f"libfabric's provider is {wrong}, and {self.provider} is expected"
            return bad(what, self.why_not(selection, view), selection.line(f"provider:{wrong}"))
        if not selection.providers:
            return Verdict(UNKNOWN, f"NCCL uses network {selection.networks[0]} and has not said which provider")
        if expected.too_few(selection.nics):
            what = f"libfabric found {selection.nics} NICs, and {expected.nics_per_node} are expected on each node"
            line = selection.line(f"provider:{selection.providers[0]}")
            return bad(what, why_fewer(self.interfaces, view), line)
        slow = without_gdr(selection, expected, view)
        if slow is not None:
            return slow
        parts = (
            selection.plugin_version,
            selection.protocol,
            f"{selection.nics} NICs" if selection.nics else None,
            "GPUDirect RDMA" if uses_gdr(selection) else None,
        )
        more = "".join(f", {part}" for part in parts if part)
        return Verdict(GOOD, f"NCCL uses {self.title} (provider {selection.providers[0]}{more})")

    def why_not(self, selection: Selection, view: NodeView) -> Cause:
        """Return why NCCL does not use this provider."""
        return next(self._causes(selection, view))

    def _wrong_provider(self, selection: Selection) -> Optional[str]:
        return next((name for name in selection.providers if not name.startswith(self.provider)), None)

    def _causes(self, selection: Selection, view: NodeView) -> Iterator[Cause]:
        """Yield likely causes, the most telling first; there is always one."""
        yield from asked_for(view)
        if self._wrong_provider(selection) is not None:
            yield Cause(
                f"libfabric found no {self.title} device: pass {self.device} into the container, give FI_PROVIDER no "
                f"other value, and load a libfabric that has the provider {self.provider}",
                selection.line(*(f"provider:{name}" for name in selection.providers)),
            )
        broken = selection.line("plugin_broken")
        if broken:
            yield Cause(
                "the plugin aws-ofi-nccl was found and cannot be loaded (its libfabric, LD_LIBRARY_PATH)", broken
            )
        loaded = " ".join(each for each in (selection.plugin, selection.plugin_path) if each)
        if loaded and not is_ofi(loaded):
            chosen = view.environment.get("NCCL_NET_PLUGIN")
            how = f"NCCL_NET_PLUGIN={chosen}" if chosen else "the image's default"
            yield Cause(
                f"the plugin {loaded} ({how}) cannot drive {self.title}: point NCCL_NET_PLUGIN at aws-ofi-nccl's "
                "library",
                selection.line("plugin", "plugin_path"),
            )
        if loaded or selection.plugin_version:
            line = selection.line("ofi_failed", "failed:Libfabric", "failed:AWS Libfabric", "plugin", "plugin_path")
            verbs = self.device.startswith("/dev/infiniband")
            hidden = f": there is no {self.device} in the container" if verbs and view.uverbs is False else ""
            yield Cause(f"aws-ofi-nccl was loaded and found no device that it can use{hidden}", line)
        named = view.environment.get("NCCL_NET_PLUGIN")
        wanted = f"the plugin {named} (NCCL_NET_PLUGIN)" if named else f"NCCL's plugin for {self.title}"
        yield Cause(
            f"{wanted} was not found: the image lacks aws-ofi-nccl, or LD_LIBRARY_PATH does not lead to it, "
            "or its file has another name",
            selection.line("plugin_missing"),
        )
