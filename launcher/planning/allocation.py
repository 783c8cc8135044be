"""What a run takes of the allocation that this shell is in: its nodes, the ranks of a node, the CPUs of a rank."""

from collections.abc import Sequence
from typing import Literal

from launcher._util.errors import LayoutError
from launcher.contract.frozen import dataclass
from launcher.slurm.allocation import AllocatedNode, Allocation

_SHOWN = 4


@dataclass(frozen=True)
class AllocationUse:
    """The part of an allocation that a run takes: equal parts of each of its nodes."""

    nodes: tuple[str, ...]
    ranks_per_node: int
    cpus_per_rank: int | None
    """None where the ranks share CPUs, as srun's --overcommit asks for."""
    gpus_per_node: int | None
    """The number of GPUs that the step asks for on each node; None where the allocation has none to ask for."""
    warnings: tuple[str, ...] = ()


def use_allocation(
    allocation: Allocation,
    *,
    nodes: int | None,
    hosts: Sequence[str],
    gpus_per_node: int | None,
    profile_gpus_per_node: int | None,
    device: Literal["auto", "gpu", "cpu"],
    overcommit: bool = False,
) -> AllocationUse:
    """Return what a run takes of the allocation: what the request and the profile state, else all that it has.

    `hosts` are the nodes that the user chose, `overcommit` says whether ranks may share CPUs. Raises LayoutError with
    the line of salloc that works.
    """
    if allocation.components > 1:
        raise LayoutError(
            f"allocation {allocation.job_id} is a heterogeneous job of {allocation.components} components, and all "
            "nodes of a run are alike",
            hint=f"Such as: {_line(allocation.nodes, len(allocation.nodes), gpus_per_node or profile_gpus_per_node)}.",
        )
    chosen = _nodes(allocation, nodes, hosts)
    ranks = _ranks(allocation, chosen, gpus_per_node, profile_gpus_per_node, device)
    cpus = _cpus(allocation, chosen, ranks, device, overcommit=overcommit)
    has_gpus = min(node.gpus for node in chosen) >= ranks
    return AllocationUse(
        tuple(node.name for node in chosen),
        ranks,
        cpus,
        ranks if has_gpus else None,
        tuple(_unused(chosen, ranks, cpus)) if device != "cpu" else (),
    )


def _nodes(allocation: Allocation, nodes: int | None, hosts: Sequence[str]) -> tuple[AllocatedNode, ...]:
    if hosts:
        return tuple(node for node in allocation.nodes if node.name in hosts)
    count = len(allocation.nodes)
    if nodes is not None and nodes > count:
        raise LayoutError(
            f"--nodes {nodes}, but the allocation {allocation.job_id} has {count}",
            hint=f"Use --nodes {count}, or make a larger allocation: salloc -N {nodes}.",
        )
    return allocation.nodes[:nodes]


def _ranks(
    allocation: Allocation,
    chosen: Sequence[AllocatedNode],
    asked: int | None,
    profile: int | None,
    device: Literal["auto", "gpu", "cpu"],
) -> int:
    """Return the ranks of each node: as many as were asked for, else one for each GPU that the allocation has there."""
    given = {node.gpus for node in chosen}
    counted = allocation.counts_gpus
    if asked is not None:
        if (max(given) > 0 or (counted and device == "gpu")) and asked > min(given) and device != "cpu":
            fewest = min(chosen, key=lambda node: node.gpus)
            place = "a node" if len(given) == 1 else f"on {fewest.name}"
            raise LayoutError(
                f"--gpus-per-node {asked}, but allocation {allocation.job_id} has {fewest.gpus} {place}",
                hint=f"{f'Use --gpus-per-node {fewest.gpus}, or a' if fewest.gpus else 'A'}nother allocation: "
                f"{_line(chosen, len(chosen), asked)}.",
            )
        return asked
    if (wanted := allocation.asked_gpus_per_node) is None and device == "cpu":
        given = {0}  # salloc --exclusive gives all GPUs of a node to those who want none
    elif wanted is not None:
        given = {min(count, wanted) for count in given}
    if len(given) > 1:
        equal = min(given)
        smaller = f"Use --gpus-per-node {equal}, or another allocation" if equal else "Another allocation"
        raise LayoutError(
            f"allocation {allocation.job_id} has {_listed(chosen)}, and a run takes as many of each node",
            hint=f"{smaller}: {_line(chosen, len(chosen), max(given))}.",
        )
    if given != {0}:
        return given.pop()
    if device == "gpu" and counted:
        raise LayoutError(
            f"allocation {allocation.job_id} has no GPUs",
            hint=f"Another allocation: {_line(chosen, len(chosen), profile)}.",
        )
    found = (allocation.tasks_per_node or profile or 1) if device != "gpu" else profile
    if found is None:
        raise LayoutError(
            f"Slurm counts no GPUs on {chosen[0].name}, and the profile does not say how many a node has",
            where="--gpus-per-node",
            hint="State it here, or as gpus_per_node in the cluster profile.",
        )
    return found


def _cpus(
    allocation: Allocation,
    chosen: Sequence[AllocatedNode],
    ranks: int,
    device: Literal["auto", "gpu", "cpu"],
    *,
    overcommit: bool,
) -> int | None:
    """Return the CPUs of each rank: those that the allocation has on a node, divided; whole cores where it can be."""
    fewest = min(chosen, key=lambda node: node.cpus)
    if fewest.cpus < ranks:
        if overcommit:
            return None
        counted = "1 CPU" if fewest.cpus == 1 else f"{fewest.cpus} CPUs"
        gpus = ranks if device != "cpu" else None
        raise LayoutError(
            f"allocation {allocation.job_id} has {counted} on {fewest.name} for {ranks} ranks",
            hint=f"Another allocation: {_line(chosen, len(chosen), gpus)}; --srun-arg=--overcommit lets ranks share.",
        )
    cpus = fewest.cpus // ranks
    threads = max(node.threads_per_core for node in chosen)
    return cpus if cpus < threads else cpus // threads * threads


def _unused(chosen: Sequence[AllocatedNode], ranks: int, cpus: int | None) -> list[str]:
    """Return a sentence for each kind of resource of which most of a node stays unused."""
    node = chosen[0]
    found = []
    if ranks * 2 < node.node_gpus:
        found.append(f"{node.name} has {node.node_gpus} GPUs, and the run uses {ranks}")
    share = fair_share(node.node_cpus or 0, max(node.node_gpus, ranks), node.threads_per_core)
    if cpus is not None and cpus * 2 < share:
        found.append(
            f"{node.name} has {share} CPUs for each GPU, and a rank gets {cpus}: "
            "salloc --exclusive gives all CPUs of each node"
        )
    return found


def fair_share(cpus: int, gpus: int, threads_per_core: int = 1) -> int:
    """Return the CPUs of a node for each of its GPUs, in whole cores where there is one for each."""
    share = cpus // max(1, gpus)
    return share if share < threads_per_core else share // threads_per_core * threads_per_core


def _listed(nodes: Sequence[AllocatedNode]) -> str:
    parts = [f"{node.gpus or 'no'} {'GPU' if node.gpus == 1 else 'GPUs'} on {node.name}" for node in nodes[:_SHOWN]]
    return " and ".join((", ".join(parts[:-1]), parts[-1])) + (", ..." if len(nodes) > _SHOWN else "")


def _line(nodes: Sequence[AllocatedNode], count: int, gpus: int | None) -> str:
    """Return a line of salloc that gives `count` equal nodes with all of their CPUs."""
    there = max(node.node_gpus for node in nodes)
    wanted = min(gpus, there) if gpus and there else gpus or there
    return f"salloc -N {count}{f' --gpus-per-node={wanted}' if wanted else ''} --exclusive"
