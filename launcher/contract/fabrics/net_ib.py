"""NCCL's own RDMA transport (NET/IB), which InfiniBand and RoCE share.

Log lines: NCCL 2.4 to 2.30 (src/transport/net_ib, at v2.21.5-1 and 5067397).
"""

import re
from collections.abc import Iterator
from typing import Any, Optional

from . import efa
from .common import asked_for, is_ofi, uses_gdr, why_fewer, without_gdr
from .model import Device, LintRule
from .verdict import GOOD, UNKNOWN, Cause, Expectation, NodeView, Selection, Verdict, added, bad, log_rule

READ_VARIABLES = ("MELLANOX_VISIBLE_DEVICES",)

_PORT = re.compile(r"([\w.+-]+:\d+)[\d:]*/(IB|RoCE)\b")
_SLOW_PROVIDERS = ("tcp", "sockets", "udp", "net")
"""Providers of libfabric that run over TCP."""


def ports(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    """Return the ports of a line `Using [0]mlx5_0:1/IB ...`."""
    found = [f"{port}/{link}" for port, link in _PORT.findall(match[1].partition(";")[0])]
    return {"hcas": added(selection.hcas, *found), "hcas_whole": ";" in match[1]}


LOG = (
    log_rule(r"NET/IB ?: No device found", "ib_none"),
    log_rule(r"NET/IB ?: Using(.*)$", "hcas", ports),
    log_rule(r"(?:Failed to|Could not|Count not) open libibverbs", "no_verbs"),
    log_rule(r"Call to ibv_\w+ failed", "verbs_failed"),
)

LINT = (
    LintRule(
        "NCCL_IB_DISABLE",
        "contradictory",
        "the profile's network is reached through the transport that this switches off",
        "leave it out",
        "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
        value="[1-9][0-9]*",  # NCCL reads numbers
    ),
)


def judge(
    selection: Selection, expected: Expectation, view: NodeView, wrong_ports: Optional[Verdict] = None
) -> Verdict:
    """Judge the ports that NCCL uses; `wrong_ports` is the verdict on ports of another fabric."""
    name = ", ".join(selection.networks)
    if any(is_ofi(each) for each in selection.networks):
        wrong = [each for each in selection.providers if each in _SLOW_PROVIDERS]
        if wrong:
            what = f"libfabric's provider is {wrong[0]}, and {expected.fabric} is expected"
            return bad(what, why_not(selection, view), selection.line(f"provider:{wrong[0]}"))
    slow = without_gdr(selection, expected, view)
    if not selection.hcas:
        if slow is not None:
            return slow
        return Verdict(UNKNOWN, f"NCCL uses network {name} and has not said which adapters")
    if wrong_ports is not None:
        return wrong_ports
    if selection.hcas_whole and expected.too_few(len(selection.hcas)):
        what = f"NCCL uses {len(selection.hcas)} ports, and {expected.nics_per_node} are expected on each node"
        return bad(what, why_fewer("NCCL_IB_HCA", view), selection.line("hcas"))
    if slow is not None:
        return slow
    direct = ", GPUDirect RDMA" if uses_gdr(selection) else ""
    return Verdict(GOOD, f"NCCL uses {name} ({len(selection.hcas)} ports: {', '.join(selection.hcas)}{direct})")


def why_not(selection: Selection, view: NodeView) -> Cause:
    """Return why NCCL does not use InfiniBand or RoCE."""
    return next(_causes(selection, view))


def _causes(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield likely causes, the most telling first; there is always one."""
    yield from asked_for(view)
    if view.environment.get("NCCL_IB_DISABLE", "0") not in ("", "0"):
        yield Cause("NCCL_IB_DISABLE is set")
    failed = selection.line("verbs_failed")
    if failed:
        limit = view.memlock
        memory = "" if limit is None or limit < 0 else f", which is {limit} bytes here (ulimit -l)"
        yield Cause(f"the adapter refused its work: mostly the limit of locked memory{memory}", failed)
    if selection.line("no_verbs") and not selection.line("ib_none"):
        yield Cause("the image has no libibverbs", selection.line("no_verbs"))
    named = view.environment.get("NCCL_IB_HCA")
    visible = view.environment.get("MELLANOX_VISIBLE_DEVICES")
    if view.uverbs is False:
        # enroot's hook mounts what the variable names, and hides the rest; without it nothing is hidden, but for a site
        # with ENROOT_RESTRICT_DEV (NVIDIA/enroot 8ea147d, conf/hooks/10-devices.sh and 99-mellanox.sh).
        hidden = (
            f"MELLANOX_VISIBLE_DEVICES={visible} names which enroot's hook mounts"
            if visible
            else "a container runtime that hides devices (enroot with ENROOT_RESTRICT_DEV) needs "
            "MELLANOX_VISIBLE_DEVICES=all in [host_env]"
        )
        yield Cause(
            f"no adapter reaches the container: there is no /dev/infiniband/uverbs*; {hidden}", _none(selection)
        )
    if named:
        yield Cause(f"no active port is one of NCCL_IB_HCA={named}", _none(selection))
    yield Cause(
        "NCCL sees no adapter with an active port: its link is down, or the container does not see it "
        "(/dev/infiniband)",
        _none(selection),
    )


def _none(selection: Selection) -> Optional[str]:
    return selection.line("ib_none", "no_verbs")


def has_link(device: Device, link: str) -> bool:
    """Whether a device has this link layer and is not one of EFA's."""
    return device.link == link and not efa.owns(device)
