"""A rank's share of a node in a batch job, by what Slurm says of the partition's nodes."""

from collections.abc import Sequence

from launcher.planning.allocation import fair_share
from launcher.planning.inputs import PlanInputs
from launcher.planning.layout import CONVENTIONAL_GPUS_PER_NODE
from launcher.planning.model import RankLayout
from launcher.slurm.nodes import NodeKind

_OF_CPUS = ("cpus-per-task", "cpus-per-gpu", "exclusive")
"""Options that say which CPUs a job has; with --exclusive it has all, and sbatch.sh divides them among the ranks."""


def gpus_of_all(kinds: Sequence[NodeKind]) -> int | None:
    """Return the GPUs of a node where all nodes that have some have as many; None where that is not known."""
    counts = {kind.gpus for kind in kinds if kind.gpus}
    return counts.pop() if len(counts) == 1 else None


def cpus_per_task(inputs: PlanInputs, ranks_per_node: int) -> int | None:
    """Return the CPUs that a job asks for each rank: a GPU's share of the node; None to leave it to Slurm.

    Of several kinds of nodes the smallest share counts, so that all of them can run the job.
    """
    directives = {**inputs.cluster.directives, **inputs.request.sbatch}
    if any(directives.get(key, False) is not False for key in _OF_CPUS):
        return None
    share = _share(inputs, ranks_per_node)
    return share if share is not None and share > 1 else None


def warnings(inputs: PlanInputs, layout: RankLayout) -> list[str]:
    """Return a sentence for each kind of resource of which most of a node stays unused."""
    ranks = layout.ranks_per_node
    share = _share(inputs, ranks)
    if share is None:
        return []
    found = []
    fewest = min(kind.gpus for kind in _able(inputs, ranks))
    if ranks * 2 < fewest and layout.nodes > 1:
        found.append(f"each node has {fewest} GPUs, and the run uses {ranks} of them on each of {layout.nodes} nodes")
    stated = {**inputs.cluster.directives, **inputs.request.sbatch}.get("cpus-per-task", inputs.cluster.cpus_per_task)
    if stated is not None and not isinstance(stated, bool) and str(stated).isdigit() and int(stated) * 2 < share:
        found.append(f"the nodes have {share} CPUs for each GPU, and a rank gets {stated} (cpus-per-task)")
    return found


def unchecked(inputs: PlanInputs) -> tuple[str, ...]:
    """Return a sentence where the number of GPUs of a batch job's nodes is assumed."""
    stated = inputs.request.gpus_per_node or inputs.cluster.gpus_per_node or gpus_of_all(inputs.node_kinds)
    if stated or not inputs.backend.own_job or inputs.cluster.device == "cpu":
        return ()
    return (
        f"that the nodes have {CONVENTIONAL_GPUS_PER_NODE} GPUs: neither --gpus-per-node nor the profile nor sinfo "
        "says how many",
    )


def _able(inputs: PlanInputs, ranks: int) -> list[NodeKind]:
    return [kind for kind in inputs.node_kinds if kind.gpus >= ranks]


def _share(inputs: PlanInputs, ranks: int) -> int | None:
    able = _able(inputs, ranks) if inputs.cluster.device != "cpu" else []
    return min((_share_of(kind, cores=_counts_cores(inputs)) for kind in able), default=None)


def _share_of(kind: NodeKind, *, cores: bool) -> int:
    threads = kind.threads_per_core
    return fair_share(kind.cpus // threads, kind.gpus) if cores else fair_share(kind.cpus, kind.gpus, threads)


def _counts_cores(inputs: PlanInputs) -> bool:
    """Return whether --cpus-per-task counts cores: of each core the job uses one thread only."""
    directives = {**inputs.cluster.directives, **inputs.request.sbatch}
    return str(directives.get("threads-per-core")) == "1" or "nomultithread" in str(directives.get("hint"))
