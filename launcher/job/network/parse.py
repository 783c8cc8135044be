"""From the lines of NCCL's debug log to what it has selected. Pure: one line onto a frozen value.

The wording is that of NCCL 2.4 to 2.30 (src/init.cc, src/plugin/net.cc, src/plugin/plugin_open.cc, src/mnnvl.cc,
src/transport, at v2.21.5-1 and 5067397) and aws-ofi-nccl 1.4 to 2daf7d3 (src/nccl_ofi_net.cpp), as in their source and
in the logs of github.com/NVIDIA/nccl issues 527, 941, 1232, 1597, 1769, nccl-tests 185 and aws-ofi-nccl 889.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

_MOST = 32
"""Of each kind of thing: a log that goes wrong must not grow in memory."""


@dataclass(frozen=True)
class Comm:
    """A communicator, as its rank describes it. `nodes` are NVLink domains where NVLink reaches beyond a machine."""

    ranks: int
    nodes: int
    local_ranks: int
    mnnvl: bool


@dataclass(frozen=True)
class Selected:
    """What NCCL has said so far of what it uses."""

    version: Optional[str] = None
    networks: tuple[str, ...] = ()
    """Names behind "Using network", in order."""
    plugin: Optional[str] = None
    """The external plugin that was loaded, by the name it gives itself."""
    plugin_path: Optional[str] = None
    plugin_version: Optional[str] = None
    libfabric: Optional[str] = None
    providers: tuple[str, ...] = ()
    fabric: Optional[str] = None
    protocol: Optional[str] = None
    nics: Optional[int] = None
    """How many NICs aws-ofi-nccl found."""
    hcas: tuple[str, ...] = ()
    """`mlx5_0:1/IB`: the ports that the InfiniBand transport uses."""
    hcas_whole: bool = False
    """Whether the list of ports was not cut off; NCCL's lines end after 1024 characters."""
    interfaces: tuple[str, ...] = ()
    """Of sockets."""
    transports: tuple[str, ...] = ()
    """How ranks are connected: P2P/CUMEM, SHM/direct, NET/Libfabric/GDRDMA."""
    paths: tuple[str, ...] = ()
    """Kinds of path between the GPUs of a node: NVL, PIX, SYS."""
    nvls: Optional[bool] = None
    """Whether NVLink's multicast is there."""
    clique: int = 0
    """The most ranks that one NVLink domain was found to join."""
    fabric_state: Optional[int] = None
    """Of NVLink's fabric manager; 3 is completed (nvml.h, NVML_GPU_FABRIC_STATE_COMPLETED)."""
    comms: tuple[Comm, ...] = ()
    completed: tuple[int, ...] = ()
    """Sizes of the communicators that are up."""
    said: tuple[tuple[str, str], ...] = ()
    """The first line of each kind that a verdict may quote."""

    def line(self, *kinds: str) -> Optional[str]:
        """The line of the first of these kinds that there is."""
        found = dict(self.said)
        return next((found[kind] for kind in kinds if kind in found), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the lines."""
        return {name: value for name, value in asdict(self).items() if name != "said"}


Update = Callable[[Selected, "re.Match[str]"], "dict[str, Any]"]
"""What a line changes, by field."""

_TEXT = re.compile(r"NCCL (?:INFO|WARN) (.*)")
_VERSION = re.compile(r"NCCL version (\S+)")
_PORT = re.compile(r"([\w.+-]+:\d+)[\d:]*/(IB|RoCE)\b")
_INTERFACE = re.compile(r"\[\d+\]([^\s:]+):")


def parse(lines: Iterable[str]) -> Selected:
    """What a whole log says."""
    selected = Selected()
    for line in lines:
        selected = advance(selected, line)
    return selected


def advance(selected: Selected, line: str) -> Selected:
    """The state after one more line; a line that means nothing here changes nothing."""
    if "NCCL" not in line:
        return selected
    version = _VERSION.search(line)
    if version:
        return replace(selected, version=version[1])
    head = _TEXT.search(line)
    if head is None:
        return selected
    text = head[1].strip()
    for pattern, kind, update in _RULES:
        match = pattern.search(text)
        if match:
            changes = update(selected, match) if update else {}
            name = kind.format(*(group or "" for group in match.groups())) if kind else ""
            if name and name not in dict(selected.said) and len(selected.said) < _MOST:
                changes["said"] = (*selected.said, (name, line.strip()))
            return replace(selected, **changes)
    return selected


def _added(values: tuple[Any, ...], *more: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*values, *more)))[:_MOST]


def _network(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    return {"networks": _added(selected.networks, match[1])}


def _provider(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    nics = int(match[3]) if match[3] else selected.nics
    return {
        "providers": _added(selected.providers, match[1]),
        "fabric": match[2] or selected.fabric,
        "nics": nics if selected.nics is None or nics is None else min(nics, selected.nics),
    }


def _hcas(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    ports = [f"{port}/{link}" for port, link in _PORT.findall(match[1].partition(";")[0])]
    return {"hcas": _added(selected.hcas, *ports), "hcas_whole": ";" in match[1]}


def _interfaces(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    return {"interfaces": _added(selected.interfaces, *_INTERFACE.findall(match[1]))}


def _comm(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    comm = Comm(int(match[1]), int(match[2]), int(match[3]), match[4] != "0")
    return {"comms": _added(selected.comms, comm)}


def _completed(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    return {"completed": _added(selected.completed, int(match[1]))}


def _clique(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    return {"clique": max(selected.clique, int(match[1]))}


def _transport(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    """`NET/Libfabric/3(5)/GDRDMA/Shared` is NET/Libfabric/GDRDMA, `P2P/CUMEM/read` P2P/CUMEM."""
    kind, *parts = match[1].split("/")
    name = parts[0].partition("[")[0] if parts else ""
    direct = "/GDRDMA" if any(part.startswith("GDRDMA") for part in parts) else ""
    return {"transports": _added(selected.transports, f"{kind}/{name}{direct}")}


def _path(selected: Selected, match: "re.Match[str]") -> dict[str, Any]:
    return {"paths": _added(selected.paths, match[1])}


def _one(name: str) -> Update:
    return lambda _selected, match: {name: match[1]}


def _rule(
    pattern: str, kind: str = "", update: Optional[Update] = None
) -> "tuple[re.Pattern[str], str, Optional[Update]]":
    return re.compile(pattern), kind, update


_RULES = (
    _rule(r"^Using network (\S.*)$", "network:{0}", _network),
    _rule(
        r"NET/OFI Selected [Pp]rovider is ([^,\s]+)(?:, fabric is (\S+))?(?: \(found (\d+) nics?\))?",
        "provider:{0}",
        _provider,
    ),
    _rule(r"NET/OFI (?:Initializing|Using) (aws-ofi-nccl \S+)", "", _one("plugin_version")),
    _rule(r"NET/OFI Using Libfabric version (\S+)", "", _one("libfabric")),
    _rule(r"NET/OFI Using transport protocol (\w+)", "", _one("protocol")),
    _rule(r"NET/OFI No eligible providers", "ofi_failed"),
    _rule(r"^NET/OFI .*(?:fail|Fail|Unable|requires at least|Only EFA)", "ofi_failed"),
    _rule(r"NET/Plugin ?: Loaded net plugin (.+?) \(v\d+\)", "plugin", _one("plugin")),
    _rule(r"^P2P plugin (\S+)", "plugin", _one("plugin")),
    _rule(r"Successfully loaded external network plugin (\S+)", "plugin_path", _one("plugin_path")),
    _rule(r"^Plugin Path : (\S+)", "plugin_path", _one("plugin_path")),
    _rule(r"NET/Plugin ?:.*(?:Failed to find \w+ symbol|Using internal|Most recent plugin)"),
    _rule(r"NET/Plugin ?:.*(?:Could not find|No plugin found)", "plugin_missing"),
    _rule(r"NET/Plugin ?: Plugin load \((\S+)\) returned \d+ : \1:", "plugin_missing"),
    _rule(
        r"NET/Plugin ?:.*(?:cannot open|undefined symbol|Plugin load|wrong ELF|version .* not found)", "plugin_broken"
    ),
    _rule(r"External network plugin (\S+) is unsupported", "plugin_broken"),
    _rule(r"Failed to initialize any NET plugin", "no_network"),
    _rule(r"Failed to initialize NET plugin (\S.*)$", "failed:{0}"),
    _rule(r"^Error: network (\S.*) not found", "no_network"),
    _rule(r"NET/IB ?: No device found", "ib_none"),
    _rule(r"NET/IB ?: Using(.*)$", "hcas", _hcas),
    _rule(r"(?:Failed to|Could not|Count not) open libibverbs", "no_verbs"),
    _rule(r"Call to ibv_\w+ failed", "verbs_failed"),
    _rule(r"NET/Socket ?: Using( \[.*)$", "interfaces", _interfaces),
    _rule(r"^MNNVL \(cliqueSize \d+\) is available but not working", "imex"),
    _rule(r"^MNNVL \d cliqueId \S+ cliqueSize (\d+)", "clique", _clique),
    _rule(r"^MNNVL busId .* state (\d+) healthMask", "fabric", lambda _s, match: {"fabric_state": int(match[1])}),
    _rule(
        r"comm \S+ rank \d+ nRanks (\d+) nNodes (\d+) localRanks (\d+) localRank \d+ MNNVL (\d)", "comm:{0}:{3}", _comm
    ),
    _rule(r"\bnranks (\d+) .*- Init COMPLETE", "", _completed),
    _rule(r"NVLS multicast support is (not )?available", "", lambda _s, match: {"nvls": match[1] is None}),
    _rule(r" via (P2P/.+)$", "p2p", _transport),
    _rule(r" via (SHM/.+)$", "shm", _transport),
    _rule(r" via (NET/.+)$", "net", _transport),
    _rule(r"^Pattern \d+, .*\btype (\w+)/\w+", "", _path),
)
