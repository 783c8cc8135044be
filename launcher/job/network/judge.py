"""What NCCL has selected against what is expected: good, bad or unknown, with one sentence. Pure.

`good` is said only once a communicator is up. A network that is better than the expected one is good.
"""

from dataclasses import dataclass
from typing import Optional

from . import causes
from .causes import Cause, Place
from .expect import Expectation
from .parse import Selected

GOOD, BAD, UNKNOWN = "good", "bad", "unknown"

_NVLINK = {"NVL", "NVB", "C2C"}
"""Kinds of path over NVLink (src/graph/topo.cc of NCCL, topoPathTypeStr)."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a node's network."""

    word: str
    what: str
    """One clause: what is so."""
    cause: Optional[str] = None
    line: Optional[str] = None
    """The line of NCCL's that tells it."""
    fatal: bool = False
    """Whether NCCL itself cannot go on like this."""

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        cause = f": {self.cause}" if self.cause else ""
        line = f" [{self.line}]" if self.line and self.word != GOOD else ""
        return f"{self.what}{cause}{line}"


def judge(selected: Selected, expected: Expectation, place: Optional[Place] = None, *, final: bool = False) -> Verdict:
    """The verdict after these lines. `final`: no more will come, so that what is likely has to do."""
    place = place or Place()
    broken = _broken(selected, expected, place)
    if broken:
        return broken
    if expected.nodes == 1:
        return _one_node(selected, expected, place, final)
    found = _fabric(selected, expected, place)
    if found.word != GOOD:
        return found
    if expected.nvlink_domain:
        reach = _domain(selected, expected, place)
        if reach.word != GOOD:
            return reach
        found = Verdict(GOOD, f"{found.what}; {reach.what}")
    return found if selected.completed else _not_yet()


def _not_yet() -> Verdict:
    return Verdict(UNKNOWN, "no communicator of NCCL is up")


def _bad(what: str, cause: Cause, line: Optional[str] = None, *, fatal: bool = False) -> Verdict:
    return Verdict(BAD, what, cause.words, cause.line or line, fatal)


def _broken(selected: Selected, expected: Expectation, place: Place) -> Optional[Verdict]:
    """What NCCL itself ends with."""
    imex = selected.line("imex")
    if imex:
        return _bad("NVLink between nodes does not work", causes.mnnvl(selected, place), imex, fatal=True)
    none = selected.line("no_network")
    if none is None:
        return None
    pinned = place.environment.get("NCCL_NET")
    what = f"NCCL found no network named {pinned} (NCCL_NET)" if pinned else "NCCL found no network"
    if expected.fabric == "ethernet":
        return _bad(what, Cause("no interface is left (NCCL_SOCKET_IFNAME), or NCCL_NET names none"), none, fatal=True)
    why = causes.efa if expected.fabric == "efa" else causes.verbs
    return _bad(what, why(selected, place), none, fatal=True)


def _family(network: str) -> str:
    """The kind of a network by the name that it gives itself: socket, verbs, ofi, other."""
    name = network.lower()
    if name == "socket":
        return "socket"
    if causes.is_ofi(name):
        return "ofi"
    return "verbs" if name.startswith("ib") else "other"


def _fabric(selected: Selected, expected: Expectation, place: Place) -> Verdict:
    """The network between nodes."""
    if not selected.networks:
        return _not_yet()
    families = {name: _family(name) for name in selected.networks}
    if expected.fabric == "ethernet":
        return Verdict(GOOD, f"NCCL uses network {', '.join(families)}")
    wrong = next((name for name, kind in families.items() if not _fits(kind, expected.fabric)), None)
    if wrong is not None:
        if expected.nvlink_domain:
            alone = _nvlink_alone(selected, expected)
            if alone.word != BAD:
                return alone
        why = causes.efa if expected.fabric == "efa" else causes.verbs
        what = f"NCCL uses network {wrong}, and {expected.fabric} is expected"
        return _bad(what, why(selected, place), selected.line(f"network:{wrong}"))
    return _libfabric(selected, expected, place) if expected.fabric == "efa" else _ports(selected, expected, place)


def _fits(family: str, fabric: str) -> bool:
    return family == "ofi" if fabric == "efa" else family != "socket"


def _nvlink_alone(selected: Selected, expected: Expectation) -> Verdict:
    """Whether all ranks are in one NVLink domain, so that no other network carries anything between them."""
    if any(comm.nodes > 1 for comm in selected.comms):
        return Verdict(BAD, "ranks are in several NVLink domains")
    if any(comm.ranks >= expected.world_size and comm.mnnvl for comm in selected.comms):
        return Verdict(GOOD, "all ranks are in one NVLink domain")
    return _not_yet()


def _libfabric(selected: Selected, expected: Expectation, place: Place) -> Verdict:
    wrong = next((name for name in selected.providers if not name.startswith("efa")), None)
    if wrong is not None:
        what = f"libfabric's provider is {wrong}, and efa is expected"
        return _bad(what, causes.efa(selected, place), selected.line(f"provider:{wrong}"))
    if not selected.providers:
        return Verdict(UNKNOWN, f"NCCL uses network {selected.networks[0]} and has not said which provider")
    if _too_few(selected.nics, expected):
        what = f"libfabric found {selected.nics} NICs, and {expected.nics_per_node} are expected on each node"
        return _bad(what, causes.fewer(expected, place), selected.line(f"provider:{selected.providers[0]}"))
    parts = (selected.plugin_version, selected.protocol, f"{selected.nics} NICs" if selected.nics else None)
    more = "".join(f", {part}" for part in parts if part)
    return Verdict(GOOD, f"NCCL uses EFA (provider {selected.providers[0]}{more})")


def _ports(selected: Selected, expected: Expectation, place: Place) -> Verdict:
    """InfiniBand and RoCE."""
    name = ", ".join(selected.networks)
    if any(_family(each) == "ofi" for each in selected.networks):
        wrong = [each for each in selected.providers if each in ("tcp", "sockets", "udp", "net")]
        if wrong:
            what = f"libfabric's provider is {wrong[0]}, and {expected.fabric} is expected"
            return _bad(what, causes.verbs(selected, place), selected.line(f"provider:{wrong[0]}"))
    if not selected.hcas:
        return Verdict(UNKNOWN, f"NCCL uses network {name} and has not said which adapters")
    if expected.fabric == "infiniband" and not any(port.endswith("/IB") for port in selected.hcas):
        cause = Cause("NCCL_IB_HCA leaves out the InfiniBand ports, or their links are down")
        what = f"NCCL uses Ethernet ports (RoCE: {', '.join(selected.hcas)}), and infiniband is expected"
        return _bad(what, cause, selected.line("hcas"))
    if selected.hcas_whole and _too_few(len(selected.hcas), expected):
        what = f"NCCL uses {len(selected.hcas)} ports, and {expected.nics_per_node} are expected on each node"
        return _bad(what, causes.fewer(expected, place), selected.line("hcas"))
    direct = ", GPUDirect RDMA" if any(each.endswith("GDRDMA") for each in selected.transports) else ""
    return Verdict(GOOD, f"NCCL uses {name} ({len(selected.hcas)} ports: {', '.join(selected.hcas)}{direct})")


def _too_few(found: Optional[int], expected: Expectation) -> bool:
    return found is not None and expected.nics_per_node is not None and found < expected.nics_per_node


def _domain(selected: Selected, expected: Expectation, place: Place) -> Verdict:
    """NVLink beyond the node. Only a communicator with more ranks than a node has can tell.

    NCCL switches it on where a rank shares its domain with another one (src/mnnvl.cc): a rank that is alone on its node
    and in its domain, as in a group across domains, says nothing against it.
    """
    across = [comm for comm in selected.comms if comm.ranks > expected.ranks_per_node]
    telling = [comm for comm in across if comm.local_ranks > 1 or comm.ranks >= expected.world_size]
    off = next((comm for comm in telling if not comm.mnnvl), None)
    if off is not None:
        line = selected.line(f"comm:{off.ranks}:0")
        return _bad("NVLink does not reach beyond the node (MNNVL 0)", causes.mnnvl(selected, place), line)
    if not any(comm.mnnvl for comm in across):
        return _not_yet()
    whole = any(comm.ranks >= expected.world_size for comm in across)
    if whole and 0 < selected.clique <= expected.ranks_per_node:
        what = f"NVLink joins only the {selected.clique} ranks of the node"
        return _bad(what, causes.mnnvl(selected, place), selected.line("clique"))
    return Verdict(GOOD, f"NVLink joins {selected.clique or 'more'} ranks beyond the node")


def _one_node(selected: Selected, expected: Expectation, place: Place, final: bool) -> Verdict:
    """One node: NVLink, or at least from GPU to GPU, and no network at all."""
    if not selected.completed:
        return _not_yet()
    if max(selected.completed) < 2 and expected.world_size < 2:
        return Verdict(GOOD, "one rank has nobody to talk to")
    nvlink = bool(_NVLINK & set(selected.paths))
    over = "over NVLink" if nvlink else "from GPU to GPU"
    if any(each.startswith("P2P/") for each in selected.transports):
        nvls = ", with NVLS" if selected.nvls else ""
        return Verdict(GOOD, f"the ranks of the node talk {over}{nvls}")
    if selected.transports:
        what = f"the ranks of the node talk by {', '.join(selected.transports)}, not from GPU to GPU"
        return _bad(what, causes.local(place), selected.line("shm", "net"))
    if final and nvlink:
        return Verdict(GOOD, "the GPUs of the node are joined by NVLink")
    return Verdict(UNKNOWN, "NCCL has not said how the ranks of the node are connected")
