"""Placement: the nodes that hold the run's groups, and the --segment that keeps each within one NVLink domain.

Ranks are assigned node by node (srun's block distribution). Megatron's order is tp-cp-ep-dp-pp (megatron-core 0.19.2,
`core/parallel_state.py`: RankGenerator), so a TP group is `tp` consecutive ranks, TP with CP is `tp*cp`, and the
experts' generator lays ETP x EP in blocks of `etp*ep`: each kind cuts the world into aligned blocks of one size.

With topology/block Slurm gives a job its nodes in segments, each within one block (an NVLink domain), and the segments
of a block follow each other (https://slurm.schedmd.com/topology.html#block, sbatch --segment: it divides the number of
nodes). A domain can therefore end only at a multiple of the segment. The plan asks for the smallest segment that no
group crosses: larger ones wait longer for free nodes, and leave more of a domain's nodes unused. The largest divisor of
the nodes up to 18, as other launchers take it, is 17 for 34 nodes, which no expert group divides.
"""

import math
from collections.abc import Iterable, Mapping

from launcher._util.errors import LayoutError
from launcher.config.cluster import Cluster
from launcher.contract.frozen import dataclass
from launcher.planning.backend import BackendTraits
from launcher.planning.model import RankLayout

_SHOWN = 3


@dataclass(frozen=True)
class Placement:
    """The decision: the segment in nodes (None: Slurm is not asked), lines for people, and messages about it."""

    segment: int | None = None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()
    """Those of `unchecked` that decide the segment."""


def plan_placement(
    cluster: Cluster,
    layout: RankLayout,
    sizes: Mapping[str, int],
    backend: BackendTraits,
    stated: Mapping[str, object],
) -> Placement:
    """Place the groups of `sizes` (those that are known). `stated` has --sbatch's or the profile's `segment` by origin.

    Raises LayoutError, with the numbers, for a group that no domain can hold; a stated segment causes warnings only.
    """
    lines = placement(layout, sizes)
    if cluster.nvlink_domain_nodes == 1 or layout.nodes == 1:
        return Placement(lines=lines)
    if cluster.topology != "block":
        return Placement(lines=lines, unchecked=("which nodes share an NVLink domain: the profile has no topology",))
    unknown = _unknown(sizes)
    if not backend.own_job:
        advice = "which nodes of the allocation share an NVLink domain: salloc --segment decided that"
        return Placement(None, lines, unchecked=(advice, *unknown))
    if stated:
        origin, value = next(iter(stated.items()))
        return Placement(None, lines, _check_stated(origin, value, cluster, layout, sizes), unknown)
    segment = smallest_segment(layout, sizes, cluster.nvlink_domain_nodes)
    with_context = _with_context(layout, sizes, cluster.nvlink_domain_nodes)
    warnings = () if with_context else (_context_warning(sizes, cluster),)
    segment = with_context or segment
    if segment == 1:
        said = (
            "segment: not known to be needed" if unknown else "segment: none is needed, no group is larger than a node"
        )
        return Placement(None, (*lines, said), warnings, unknown, unknown)
    used = cluster.nvlink_domain_nodes // segment * segment
    whole = cluster.nvlink_domain_nodes
    said = f"segment {segment} nodes: no TP or EP group leaves its NVLink domain ({used} of its {whole} nodes are used)"
    return Placement(segment, (*lines, said), warnings, unknown, unknown)


def smallest_segment(layout: RankLayout, sizes: Mapping[str, int], domain_nodes: int) -> int:
    """Return the fewest nodes that, taken as a unit, no TP and no expert group crosses. Raises LayoutError."""
    units = _units(sizes)
    needed = _common(layout, units.values())
    if needed <= domain_nodes:
        return needed
    ranks = domain_nodes * layout.ranks_per_node
    stated = ", ".join(f"{name} on {_nodes(size, layout)} nodes" for name, size in units.items())
    raise LayoutError(
        f"no NVLink domain holds these groups: {stated} come to {needed} nodes of {layout.ranks_per_node} GPUs, and a "
        f"domain has {domain_nodes} ({ranks} GPUs)",
        where="--segment",
        hint=f"Choose sizes that fit {ranks} GPUs, or let groups span domains knowingly: --sbatch segment=NODES.",
    )


def placement(layout: RankLayout, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return a line for each kind of group that is known and has more than one rank."""
    lines = [f"{name}: {_where(size, layout)}" for name, size in {**_units(sizes), **_context(sizes)}.items()]
    stages = sizes.get("pp", 1)
    if stages > 1 and layout.world_size % stages == 0:
        ranks = layout.world_size // stages
        shown = [f"{stage} on {_span(stage * ranks, ranks, layout)}" for stage in range(min(stages, _SHOWN))]
        lines.append(f"PP {stages}: stage {', '.join(shown)}{', ...' if stages > _SHOWN else ''}")
    return tuple(lines)


def crosses(size: int, segment: int, layout: RankLayout) -> bool:
    """Whether an aligned block of `size` ranks may lie on both sides of the end of a segment."""
    return segment < layout.nodes and segment * layout.ranks_per_node % size != 0


def _units(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the blocks that must not leave a domain, by the names that people use."""
    tp, ep, etp = (sizes.get(key, 1) for key in ("tp", "ep", "etp"))
    experts = f"EP {ep} x ETP {etp} = {ep * etp}" if etp > 1 else f"EP {ep}"
    # Of a model without experts Bridge sets ETP to TP: those groups are the same.
    found = {f"TP {tp}": tp, **({experts: ep * etp} if ep > 1 or etp != tp else {})}
    return {name: size for name, size in found.items() if size > 1}


def _context(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the block of CP: a run whose CP crosses domains is slower, not wrong."""
    tp, cp = sizes.get("tp", 1), sizes.get("cp", 1)
    return {f"CP {cp} x TP {tp} = {cp * tp}" if tp > 1 else f"CP {cp}": cp * tp} if cp > 1 else {}


def _nodes(size: int, layout: RankLayout) -> int:
    """Return after how many nodes a block of `size` ranks ends where a node ends."""
    return size // math.gcd(size, layout.ranks_per_node)


def _common(layout: RankLayout, sizes: Iterable[int]) -> int:
    return math.lcm(*(_nodes(size, layout) for size in sizes))


def _with_context(layout: RankLayout, sizes: Mapping[str, int], domain_nodes: int) -> int | None:
    """Return the segment that holds CP's blocks, too; None where a domain is too small for that."""
    needed = _common(layout, (*_units(sizes).values(), *_context(sizes).values()))
    return needed if needed <= domain_nodes else None


def _context_warning(sizes: Mapping[str, int], cluster: Cluster) -> str:
    (name,) = _context(sizes)
    return f"{name}: its groups span NVLink domains of {cluster.nvlink_domain_nodes} nodes, and use the network there"


def _unknown(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return what the segment depends on and is not known."""
    names = [name for name, key in (("TP", "tp"), ("CP", "cp"), ("EP", "ep")) if key not in sizes]
    names += ["ETP"] if sizes.get("ep", 1) > 1 and "etp" not in sizes else []
    return (f"--segment: {', '.join(names)} counted as 1, and the recipe decides",) if names else ()


def _check_stated(
    origin: str, value: object, cluster: Cluster, layout: RankLayout, sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """Return warnings about a segment that the user or the profile states."""
    text = str(value)
    if value is False:
        segment, said = 1, f"{origin} leaves --segment out"
    elif value is True or not (text.isascii() and text.isdigit()) or int(text) == 0:
        return (f"{origin} gives --segment {text!r}, which is not a number of nodes",)
    else:
        segment, said = int(text), f"{origin} gives --segment {text}"
    found = []
    if layout.nodes % segment:
        found.append(f"{said}, which does not divide {layout.nodes} nodes: Slurm refuses that")
    if segment > cluster.nvlink_domain_nodes:
        found.append(f"{said}, and an NVLink domain has {cluster.nvlink_domain_nodes} nodes")
    split = [name for name, size in {**_units(sizes), **_context(sizes)}.items() if crosses(size, segment, layout)]
    if split:
        found.append(f"{said}: groups of {' and '.join(split)} may span two NVLink domains")
    return tuple(found)


def _where(size: int, layout: RankLayout) -> str:
    per_node = layout.ranks_per_node
    if per_node % size == 0:
        count = per_node // size
        return "one group on each node" if count == 1 else f"{count} groups on each node"
    groups = layout.world_size // size
    shown = [_span(group * size, size, layout) for group in range(min(groups, _SHOWN))]
    more = ", ..." if groups > _SHOWN else ""
    return f"{groups} group{'s' if groups > 1 else ''} of {size} ranks, on {', '.join(shown)}{more}"


def _span(first: int, count: int, layout: RankLayout) -> str:
    """Return the nodes of `count` consecutive ranks."""
    low, high = first // layout.ranks_per_node, (first + count - 1) // layout.ranks_per_node
    return f"node {low}" if low == high else f"nodes {low}-{high}"
