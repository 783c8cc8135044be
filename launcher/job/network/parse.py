"""From the lines of NCCL's debug log to what it has selected. Pure: a line and a frozen value give the next value.

The wording is that of NCCL 2.4 to 2.30 (src/init.cc, src/plugin/net.cc, src/plugin/plugin_open.cc, src/mnnvl.cc,
src/transport, at v2.21.5-1 and 5067397) and aws-ofi-nccl 1.4 to 2daf7d3 (src/nccl_ofi_net.cpp), as in their source and
in the logs of github.com/NVIDIA/nccl issues 527, 941, 1232, 1597, 1769, nccl-tests 185 and aws-ofi-nccl 889.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ...contract.fabrics import FABRICS
from ...contract.fabrics.verdict import Comm, LogRule, Selection, added, log_rule, set_field

_MOST_LINES = 32
"""Of kinds of lines that are kept, so that a log that goes wrong does not grow in memory."""

_TEXT = re.compile(r"NCCL (?:INFO|WARN) (.*)")
_PROCESS = re.compile(r"(\S+:\d+):\d+ \[\d+\] NCCL ")
"""Host and process that wrote a line: the ranks of a node may share one log."""
_VERSION = re.compile(r"NCCL version (\S+)")
_INTERFACE = re.compile(r"\[\d+\]([^\s:]+):")


def parse(lines: Iterable[str]) -> Selection:
    """Parse a whole log."""
    selection = Selection()
    for line in lines:
        selection = advance(selection, line)
    return selection


def advance(selection: Selection, line: str) -> Selection:
    """Return the state after one more line. A line without meaning here changes nothing."""
    if "NCCL" not in line:
        return selection
    version = _VERSION.search(line)
    if version:
        return replace(selection, version=version[1])
    head = _TEXT.search(line)
    if head is None:
        return selection
    text = head[1].strip()
    for pattern, kind, update in _RULES:
        match = pattern.search(text)
        if match:
            changes = update(selection, match) if update else {}
            if kind in _CONNECTIONS:
                changes |= _connected(selection, line, _CONNECTIONS[kind])
            name = kind.format(*(group or "" for group in match.groups())) if kind else ""
            if name and name not in dict(selection.said) and len(selection.said) < _MOST_LINES:
                changes["said"] = (*selection.said, (name, line.strip()))
            return replace(selection, **changes)
    return selection


def _network(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    return {"networks": added(selection.networks, match[1])}


def _interfaces(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    return {"interfaces": added(selection.interfaces, *_INTERFACE.findall(match[1]))}


def _comm(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    comm = Comm(int(match[1]), int(match[2]), int(match[3]), match[4] != "0")
    return {"comms": added(selection.comms, comm)}


def _completed(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    return {"completed": added(selection.completed, int(match[1]))}


def _clique(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    return {"clique": max(selection.clique, int(match[1]))}


def _transport(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    """`NET/Libfabric/3(5)/GDRDMA/Shared` is NET/Libfabric/GDRDMA, `P2P/CUMEM/read` P2P/CUMEM."""
    kind, *parts = match[1].split("/")
    name = parts[0].partition("[")[0] if parts else ""
    direct = "/GDRDMA" if any(part.startswith("GDRDMA") for part in parts) else ""
    return {"transports": added(selection.transports, f"{kind}/{name}{direct}")}


_CONNECTIONS = {"net": "direct_processes", "net_plain": "plain_processes"}
"""By the kind of a line about a connection between nodes: the field that its process belongs to."""


def _connected(selection: Selection, line: str, name: str) -> dict[str, Any]:
    process = _PROCESS.search(line)
    return {name: added(getattr(selection, name), process[1])} if process else {}


def _gdr(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    """`NET/IB : GPU Direct RDMA Enabled for HCA 0 'mlx5_0'` is IB/mlx5_0, among those that are on."""
    name = "gdr_on" if match[2] == "Enabled" else "gdr_off"
    return {name: added(getattr(selection, name), f"{match[1]}/{match[3]}")}


def _path(selection: Selection, match: "re.Match[str]") -> dict[str, Any]:
    return {"paths": added(selection.paths, match[1])}


_COMMON_RULES: tuple[LogRule, ...] = (
    log_rule(r"^Using network (\S.*)$", "network:{0}", _network),
    log_rule(r"NET/Plugin ?: Loaded net plugin (.+?) \(v\d+\)", "plugin", set_field("plugin")),
    log_rule(r"^P2P plugin (\S+)", "plugin", set_field("plugin")),
    log_rule(r"Successfully loaded external network plugin (\S+)", "plugin_path", set_field("plugin_path")),
    log_rule(r"^Plugin Path : (\S+)", "plugin_path", set_field("plugin_path")),
    log_rule(r"NET/Plugin ?:.*(?:Could not find|No plugin found)", "plugin_missing"),
    log_rule(r"NET/Plugin ?:.*(?:Failed to find \w+ symbol|Using internal|Most recent plugin)"),
    log_rule(r"NET/Plugin ?: Plugin load \((\S+)\) returned \d+ : \1:", "plugin_missing"),
    log_rule(
        r"NET/Plugin ?:.*(?:cannot open|undefined symbol|wrong ELF|version .* not found|Plugin load)", "plugin_broken"
    ),
    log_rule(r"External network plugin (\S+) is unsupported", "plugin_broken"),
    log_rule(r"Failed to initialize any NET plugin", "no_network"),
    log_rule(r"Failed to initialize NET plugin (\S.*)$", "failed:{0}"),
    log_rule(r"^Error: network (\S.*) not found", "no_network"),
    log_rule(r"NET/Socket ?: Using( \[.*)$", "interfaces", _interfaces),
    log_rule(r"^MNNVL \(cliqueSize \d+\) is available but not working", "imex"),
    log_rule(r"^MNNVL \d cliqueId \S+ cliqueSize (\d+)", "clique", _clique),
    log_rule(r"^MNNVL busId .* state (\d+) healthMask", "fabric", lambda _s, match: {"fabric_state": int(match[1])}),
    log_rule(
        r"comm \S+ rank \d+ nRanks (\d+) nNodes (\d+) localRanks (\d+) localRank \d+ MNNVL (\d)", "comm:{0}:{3}", _comm
    ),
    log_rule(r"\bnranks (\d+) .*- Init COMPLETE", "", _completed),
    log_rule(r"NVLS multicast support is (not )?available", "", lambda _s, match: {"nvls": match[1] is None}),
    log_rule(r"^NET/(.+?) ?: GPU Direct RDMA (Disabled) for HCA \d+ '([^']*)'", "gdr_off", _gdr),
    log_rule(r"^NET/(.+?) ?: GPU Direct RDMA (Enabled) for HCA \d+ '([^']*)'", "", _gdr),
    log_rule(r"^GPU Direct RDMA Disabled for GPU .* / HCA", "gdr_far"),
    log_rule(r"^DMA-BUF is available on GPU device", "", lambda _selection, _match: {"dma_buf": True}),
    log_rule(r" via (P2P/.+)$", "p2p", _transport),
    log_rule(r" via (SHM/.+)$", "shm", _transport),
    log_rule(r" via (NET/(?!.*/GDRDMA).+)$", "net_plain", _transport),
    log_rule(r" via (NET/.+)$", "net", _transport),
    log_rule(r"^Pattern \d+, .*\btype (\w+)/\w+", "", _path),
)

_RULES = tuple(
    (re.compile(pattern), kind, update)
    for pattern, kind, update in dict.fromkeys(
        (*(rule for each in FABRICS.values() for rule in each.log_rules), *_COMMON_RULES)
    )
)
"""Those of the fabrics first, each once: fabrics with one transport share its rules."""
