"""Placement: the nodes that hold the run's groups, and the --segment that keeps each within one NVLink domain.

Ranks are assigned node by node (srun's block distribution). Megatron's order is tp-cp-ep-dp-pp (megatron-core 0.19.2,
`core/parallel_state.py`: RankGenerator), so a TP group is `tp` consecutive ranks, TP with CP is `tp*cp`, and the
experts' generator lays ETP x EP in blocks of `etp*ep`: each kind cuts the world into aligned blocks of one size.

With topology/block Slurm gives a job its nodes in segments, each within one block (an NVLink domain), and the segments
of a block follow each other (https://slurm.schedmd.com/topology.html#block). The plan's segment divides the number of
nodes, as Slurm demands. A domain can therefore end only at a multiple of the segment.

--segment came with Slurm 24.05. A segment of more nodes than the job has was refused until 26.05, which ignores it;
several segments beside --nodelist were refused until 25.11 (src/plugins/topology/block/eval_nodes_block.c at the tags
slurm-24-05-0-1 to slurm-26-05-3-1; docs/measurements/slurm.md has what 24.11.5 and 26.05.5 did).

The plan asks for the largest segment that divides the nodes, that is at most `segment_max` nodes of the profile, and
that no group crosses. A run without a segment may be spread over all racks, and its data-parallel and FSDP traffic
leaves NVLink then. NVIDIA's own launcher takes the largest divisor up to 18 (NVIDIA-NeMo/Megatron-Bridge 067f987,
scripts/performance/utils/executors.py), which is 17 for 34 nodes, and no group of 2 nodes divides that. CoreWeave
(coreweave/nccl-tests cb86553, slurm/nccl-test-distributed-gb200-nvl72-enroot.slurm) and Google
(AI-Hypercomputer/gpu-recipes 2e1fd5e, training/a4x/llama31_405b) ask for 16, which leaves two nodes of a rack to
replace others. The smallest segment waits less for free nodes: `--sbatch segment=smallest`.
"""

import math
from collections.abc import Iterable, Mapping

from launcher._util.errors import LayoutError
from launcher.config.cluster import Cluster
from launcher.contract.frozen import dataclass
from launcher.planning.backend import BackendTraits
from launcher.planning.model import RankLayout

SMALLEST = "smallest"
"""The value of `segment`, in --sbatch or a profile's directives, for the smallest one that holds the groups."""

_NAMED = (
    "--nodelist beside more than one segment: Slurm refuses such a job before 25.11; --unset-sbatch segment leaves the "
    "segments out"
)

_SHOWN = 3
_SEARCHED = 64
"""How many more nodes are tried to find a number that a larger segment divides."""


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
    *,
    named_nodes: bool = False,
) -> Placement:
    """Place the groups of `sizes` (those that are known). `stated` has --sbatch's or the profile's `segment` by origin.

    `named_nodes`: the job names nodes that it must have.
    Raises LayoutError, with the numbers, for a group that no domain can hold; a stated segment causes warnings only.
    """
    lines = placement(layout, sizes)
    if cluster.nvlink_domain_nodes == 1 or layout.nodes == 1:
        return Placement(lines=lines)
    if cluster.topology != "block":
        return Placement(lines=lines, unchecked=("which nodes share an NVLink domain: the profile has no topology",))
    # Up to segment_max nodes are one segment, whatever the groups are.
    one = layout.nodes <= _most(cluster) and SMALLEST not in stated.values()
    unknown = () if one else _unknown(sizes)
    if not backend.own_job:
        advice = "which nodes of the allocation share an NVLink domain: salloc --segment decided that"
        return Placement(None, lines, unchecked=(advice, *_unknown(sizes)))
    if stated and SMALLEST not in stated.values():
        origin, value = next(iter(stated.items()))
        warned = _check_stated(origin, value, cluster, layout, sizes, named_nodes=named_nodes)
        return Placement(None, lines, warned, unknown)
    smallest = smallest_segment(layout, sizes, cluster.nvlink_domain_nodes)
    with_context = _with_context(layout, sizes, cluster.nvlink_domain_nodes)
    warnings = [] if with_context else [_context_warning(sizes, cluster)]
    smallest = with_context or smallest
    segment = smallest
    if SMALLEST not in stated.values():
        segment = largest_segment(layout.nodes, smallest, _most(cluster))
        warnings += _advice(layout.nodes, smallest, segment, cluster)
    if named_nodes and 1 < segment < layout.nodes:
        warnings.append(_NAMED)
    return Placement(
        segment if segment > 1 else None,
        (*lines, _said(segment, cluster, unknown=bool(unknown))),
        tuple(warnings),
        unknown,
        unknown,
    )


def largest_segment(nodes: int, smallest: int, most: int) -> int:
    """Return the largest divisor of `nodes` up to `most` that is a multiple of `smallest`; without one `smallest`."""
    return max((each for each in range(smallest, most + 1, smallest) if nodes % each == 0), default=smallest)


def _most(cluster: Cluster) -> int:
    return min(cluster.segment_max or cluster.nvlink_domain_nodes, cluster.nvlink_domain_nodes)


def _said(segment: int, cluster: Cluster, *, unknown: bool) -> str:
    """Return the plan's line about the segment."""
    if segment == 1:
        return "segment: not known to be needed" if unknown else "segment: none, no group is larger than a node"
    whole = cluster.nvlink_domain_nodes
    used = f"{whole // segment * segment} of the {whole} nodes of a domain are used"
    if unknown:
        return f"segment {segment} nodes: whether a group leaves its NVLink domain is not known ({used})"
    return f"segment {segment} nodes: no TP or EP group leaves its NVLink domain ({used})"


def _advice(nodes: int, smallest: int, segment: int, cluster: Cluster) -> list[str]:
    """Return a warning about a segment that is much smaller, or larger, than the profile's; the node counts to take."""
    most = _most(cluster)
    if segment > most:
        return [
            f"groups that come to {segment} nodes are held by a segment of {segment}, and the profile states at most "
            f"{most} (segment_max): such a job waits until a whole NVLink domain is free"
        ]
    if nodes <= most or 2 * segment > most:
        return []
    better = (each for each in range(nodes + 1, nodes + _SEARCHED) if each % smallest == 0)
    counts = [each for each in better if 2 * largest_segment(each, smallest, most) > most][:_SHOWN]
    before = [each for each in range(nodes - 1, most - 1, -1) if each % smallest == 0]
    counts = [*(each for each in before if 2 * largest_segment(each, smallest, most) > most)][:1] + counts
    held = f"into segments of {segment}" if segment > 1 else "into no segments"
    return [
        f"{nodes} nodes divide {held} only, so that Slurm may spread them over many NVLink domains of "
        f"{cluster.nvlink_domain_nodes}; these numbers of nodes keep more of them together: "
        + ", ".join(f"{each} (segments of {largest_segment(each, smallest, most)})" for each in counts)
    ]


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
    origin: str,
    value: object,
    cluster: Cluster,
    layout: RankLayout,
    sizes: Mapping[str, int],
    *,
    named_nodes: bool,
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
    if segment > layout.nodes:
        found.append(
            f"{said}, and the run has {layout.nodes} nodes: Slurm ignores that since 26.05 and refuses it before"
        )
    elif layout.nodes % segment:
        found.append(f"{said}, which does not divide {layout.nodes} nodes: Slurm refuses that")
    if named_nodes and 1 < segment < layout.nodes:
        found.append(_NAMED)
    if segment > cluster.nvlink_domain_nodes:
        found.append(f"{said}, and an NVLink domain has {cluster.nvlink_domain_nodes} nodes")
    blocks = {**_units(sizes), **_context(sizes)}
    split = [name for name, size in blocks.items() if crosses(size, 1 if segment > layout.nodes else segment, layout)]
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
