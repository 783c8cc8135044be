"""What NCCL has selected, judged by what is expected: good, bad or unknown, with one sentence. Pure.

`good` is said only once a communicator is up. A network that is better than the expected one is good.
"""

from dataclasses import replace
from typing import Optional

from ...contract.fabrics import FABRICS
from ...contract.fabrics.verdict import BAD, GOOD, UNKNOWN, Expectation, NodeView, Selection, Verdict, bad
from . import causes

_NVLINK = {"NVL", "NVB", "C2C"}
"""Kinds of path over NVLink (src/graph/topo.cc of NCCL, topoPathTypeStr)."""


def judge(
    selection: Selection, expected: Expectation, view: Optional[NodeView] = None, *, final: bool = False
) -> Verdict:
    """Return the verdict after these lines. `final`: no more will come, so that a likely verdict counts."""
    view = view or NodeView()
    broken = _broken(selection, expected, view)
    if broken:
        return broken
    if expected.nodes == 1:
        return _one_node(selection, expected, view, final)
    found = _fabric(selection, expected, view)
    if found.word != GOOD:
        return found
    if expected.nvlink_domain:
        reach = _domain(selection, expected, view)
        if reach.word != GOOD:
            return reach
        found = Verdict(GOOD, f"{found.what}; {reach.what}")
    if not selection.completed:
        return _not_yet()
    unproved = expected.gdr and FABRICS[expected.fabric].gdr and not expected.nvlink_domain
    connected = any(each.startswith("NET/") for each in selection.transports)
    # Since NCCL 2.22 connections are made with the first collective: whether they use GPUDirect RDMA is seen then.
    return replace(found, provisional=True) if unproved and not connected and not final else found


def _not_yet() -> Verdict:
    return Verdict(UNKNOWN, "no communicator of NCCL is up")


def _broken(selection: Selection, expected: Expectation, view: NodeView) -> Optional[Verdict]:
    """Return the verdict on what ends NCCL itself; None where nothing does."""
    imex = selection.line("imex")
    if imex:
        return bad("NVLink between nodes does not work", causes.mnnvl(selection, view), imex, fatal=True)
    none = selection.line("no_network")
    if none is None:
        return None
    pinned = view.environment.get("NCCL_NET")
    what = f"NCCL found no network named {pinned} (NCCL_NET)" if pinned else "NCCL found no network"
    return bad(what, FABRICS[expected.fabric].why_not(selection, view), none, fatal=True)


def _fabric(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    """Judge the network between nodes."""
    if not selection.networks:
        return _not_yet()
    fabric = FABRICS[expected.fabric]
    wrong = next((name for name in selection.networks if not fabric.accepts(name)), None)
    if wrong is None:
        return fabric.judge(selection, expected, view)
    if expected.nvlink_domain:
        alone = _nvlink_alone(selection, expected)
        if alone.word != BAD:
            return alone
    what = f"NCCL uses network {wrong}, and {expected.fabric} is expected"
    return bad(what, fabric.why_not(selection, view), selection.line(f"network:{wrong}"))


def _nvlink_alone(selection: Selection, expected: Expectation) -> Verdict:
    """Judge whether all ranks are in one NVLink domain, so that no other network carries anything between them."""
    if any(comm.nodes > 1 for comm in selection.comms):
        return Verdict(BAD, "ranks are in several NVLink domains")
    if any(comm.ranks >= expected.world_size and comm.mnnvl for comm in selection.comms):
        return Verdict(GOOD, "all ranks are in one NVLink domain")
    return _not_yet()


def _domain(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    """Judge NVLink beyond the node. Only a communicator with more ranks than a node has shows it.

    NCCL switches it on where a rank shares its domain with another one (src/mnnvl.cc): a rank that is alone on its node
    and in its domain, as in a group across domains, says nothing against it.
    """
    across = [comm for comm in selection.comms if comm.ranks > expected.ranks_per_node]
    telling = [comm for comm in across if comm.local_ranks > 1 or comm.ranks >= expected.world_size]
    off = next((comm for comm in telling if not comm.mnnvl), None)
    if off is not None:
        line = selection.line(f"comm:{off.ranks}:0")
        return bad("NVLink does not reach beyond the node (MNNVL 0)", causes.mnnvl(selection, view), line)
    if not any(comm.mnnvl for comm in across):
        return _not_yet()
    whole = any(comm.ranks >= expected.world_size for comm in across)
    if whole and 0 < selection.clique <= expected.ranks_per_node:
        what = f"NVLink joins only the {selection.clique} ranks of the node"
        return bad(what, causes.mnnvl(selection, view), selection.line("clique"))
    return Verdict(GOOD, f"NVLink joins {selection.clique or 'more'} ranks beyond the node")


def _one_node(selection: Selection, expected: Expectation, view: NodeView, final: bool) -> Verdict:
    """Judge one node: NVLink, or at least from GPU to GPU, and no network at all."""
    if not selection.completed:
        return _not_yet()
    if max(selection.completed) < 2 and expected.world_size < 2:
        return Verdict(GOOD, "one rank has no peer")
    nvlink = bool(_NVLINK & set(selection.paths))
    over = "over NVLink" if nvlink else "from GPU to GPU"
    if any(each.startswith("P2P/") for each in selection.transports):
        nvls = ", with NVLS" if selection.nvls else ""
        return Verdict(GOOD, f"the ranks of the node talk {over}{nvls}")
    if selection.transports:
        what = f"the ranks of the node talk by {', '.join(selection.transports)}, not from GPU to GPU"
        return bad(what, causes.local(view), selection.line("shm", "net_plain", "net"))
    if final and nvlink:
        return Verdict(GOOD, "the GPUs of the node are joined by NVLink")
    return Verdict(UNKNOWN, "NCCL has not said how the ranks of the node are connected")
