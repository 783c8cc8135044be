"""The last warning of NCCL in a log: what failed in the middle of a run, with the peer and the device.

Wording: NCCL 2.18 to 2.30 (src/transport/net_ib, src/misc/ibvwrap.cc, src/misc/socket.cc), aws-ofi-nccl 2daf7d3; logs
of NVIDIA/nccl issues 1405, 1664, 1814, 2013, 1052, 1676, nccl-tests 227, 185.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_TAIL = 1 << 20
"""Bytes at the end of a log that are read: a failing NCCL writes hundreds of lines, not millions."""

_WARNING = re.compile(r"NCCL WARN (.*)")
_PEER = re.compile(
    r"(?:from peer|remote peer|remote GID|remoteGids?:?|Connect to|connect to|connecting to|to peer|peer:?) ?"
    r"([\w.:-]+<\d+>|[\w.:-]*[:.][\w.:-]*\w)"
)
_DEVICES = (
    re.compile(r"\bhca ([\w.-]+)"),
    re.compile(r"on dev ([\w.-]+(?::\d+)?)"),
    re.compile(r"NET/IB ?: ([\w.-]+:\d+) (?:async|Got)"),
    re.compile(r"\b(?:dev|device|domain|NIC|nic) ([a-z][\w.-]*\d[\w.-]*)"),
)
_NETWORK = re.compile(
    r"NET/|ibv_|Got completion|[Cc]onnect|[Ss]ocket|peer|[Tt]ime-?out|timed out|libfabric|async (?:fatal )?event"
)
_CONSEQUENCE = re.compile(r"\[Service thread\]|\[Proxy|abort|NCCL_DEBUG=|Could not receive type from localRank")


@dataclass(frozen=True)
class NcclWarning:
    """What NCCL warns of, in its words, and the peer and the device that it names."""

    text: str
    peer: Optional[str] = None
    device: Optional[str] = None

    def __str__(self) -> str:
        named = [f"{what} {who}" for what, who in (("peer", self.peer), ("device", self.device)) if who]
        return f"NCCL warned{f' of {chr(32).join(named)}' if named else ''}: {self.text}"


def last_warning(lines: Iterable[str]) -> Optional[NcclWarning]:
    """Return the last warning about the network; of the others the last one where there is none."""
    found: Optional[NcclWarning] = None
    best = -1
    for line in lines:
        match = _WARNING.search(line)
        if match is None:
            continue
        warning = parse_warning(match[1].strip())
        rank = _rank(warning)
        if rank >= best:
            found, best = warning, rank
    return found


def parse_warning(text: str) -> NcclWarning:
    """Return the parts of a warning's text."""
    peer = _PEER.search(text)
    devices = (pattern.search(text) for pattern in _DEVICES)
    device = next((match[1] for match in devices if match), None)
    return NcclWarning(text, peer[1] if peer else None, device)


def _rank(warning: NcclWarning) -> int:
    """Return how much a warning says: what a peer's end leaves behind says least."""
    if _CONSEQUENCE.search(warning.text):
        return 0
    return 2 if warning.peer or warning.device or _NETWORK.search(warning.text) else 1


def read(path: Path) -> Optional[NcclWarning]:
    """Return the last warning in a log; None where there is none, or the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            text = file.read()
    except OSError:
        return None
    return last_warning(text.decode("utf-8", errors="replace").splitlines())
