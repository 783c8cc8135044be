"""Nodes, ranks and parallel sizes: do they fit together?

The rules are Megatron's (parallel_state.initialize_model_parallel of megatron-core 0.19.2, and Bridge's data-parallel
size): the world divides by TP*PP*CP, and for experts by ETP*EP*PP; a global batch divides by micro-batch size times DP.
"""

from collections.abc import Mapping, Sequence

from launcher._util.errors import LayoutError
from launcher.contract import parallel_sizes
from launcher.planning.model import RankLayout

PARALLEL_KEYS = {
    "tp": parallel_sizes.TP,
    "pp": parallel_sizes.PP,
    "cp": parallel_sizes.CP,
    "ep": parallel_sizes.EP,
    "etp": parallel_sizes.ETP,
    "mbs": "train.micro_batch_size",
    "gbs": "train.global_batch_size",
}
"""Short names with the overrides that set them."""

CONVENTIONAL_GPUS_PER_NODE = 8
"""Assumed of a batch job's nodes where neither the request, the profile nor Slurm says how many GPUs they have."""


def plan_layout(
    *,
    nodes: int | None,
    gpus_per_node: int | None,
    profile_gpus_per_node: int | None,
    machine_gpus: int | None,
    sizes: Mapping[str, int],
) -> RankLayout:
    """Return the run's layout; `machine_gpus` is given for a local run only.

    `profile_gpus_per_node` is the profile's number, or the one that Slurm shows. Raises LayoutError with the numbers
    and the fix.
    """
    if machine_gpus is not None:
        if nodes not in (None, 1):
            raise LayoutError(f"{nodes} nodes were asked for, but a local run has one: this machine", where="--nodes")
        nodes, ranks = 1, gpus_per_node or profile_gpus_per_node or machine_gpus or 1
        if 0 < machine_gpus < ranks:
            raise LayoutError(
                f"{ranks} ranks were asked for, but this machine has {machine_gpus} GPUs, one for each rank",
                where="--gpus-per-node",
                hint=f"Use --gpus-per-node {machine_gpus}; CUDA_VISIBLE_DEVICES= (empty) trains on the CPU.",
            )
    else:
        nodes = nodes or 1
        ranks = gpus_per_node or profile_gpus_per_node or CONVENTIONAL_GPUS_PER_NODE
    layout = RankLayout(nodes, ranks, nodes * ranks, tuple(sorted(sizes.items())))
    _check_division(layout, sizes)
    return layout


def choose_hosts(
    allocated: Sequence[str], listed: Sequence[str], excluded: Sequence[str], nodes: int | None
) -> tuple[str, ...]:
    """Return the nodes of an allocation to run on, in the allocation's order: as Slurm reads nodelist and exclude.

    Without a number of nodes those that are listed, or all that are not excluded. Raises LayoutError.
    """
    foreign = [name for name in listed if name not in allocated]
    if foreign:
        raise LayoutError(
            f"{', '.join(foreign[:8])} is not in this allocation, which has {', '.join(allocated[:8])}",
            where="--nodelist",
        )
    if both := [name for name in listed if name in excluded]:
        raise LayoutError(f"{', '.join(both[:8])} is in --nodelist, too", where="--exclude")
    free = [name for name in allocated if name not in excluded]
    wanted = nodes or len(set(listed)) or len(free)
    if wanted > len(free) or not free:
        raise LayoutError(
            f"{wanted} nodes were asked for, and {len(free)} of the allocation's {len(allocated)} are not excluded",
            where="--exclude",
            hint=f"Use --nodes {len(free)}, or exclude fewer." if free else "Exclude fewer.",
        )
    if len(set(listed)) > wanted:
        raise LayoutError(f"it names {len(set(listed))} nodes, and --nodes says {wanted}", where="--nodelist")
    first = [name for name in free if name in listed]
    chosen = {*first, *[name for name in free if name not in listed][: wanted - len(first)]}
    return tuple(name for name in free if name in chosen)


def _check_division(layout: RankLayout, sizes: Mapping[str, int]) -> None:
    nodes = "1 node" if layout.nodes == 1 else f"{layout.nodes} nodes"
    counted = f"{nodes} x {layout.ranks_per_node} GPUs per node = {layout.world_size} ranks"
    for key, value in sizes.items():
        if value < 1:
            raise LayoutError(f"{PARALLEL_KEYS[key]}={value} must be at least 1")
    tp, pp, cp = (sizes.get(key, 1) for key in ("tp", "pp", "cp"))
    _divides(layout, counted, ("tp", "pp", "cp"), (tp, pp, cp))
    if "ep" in sizes or "etp" in sizes:
        # Bridge sets ETP to TP unless it is set, and to 1 in its MoE recipes: only a stated one is counted.
        _divides(layout, counted, ("etp", "ep", "pp"), (sizes.get("etp", 1), sizes.get("ep", 1), pp))
    if {"tp", "pp", "cp", "mbs", "gbs"} <= set(sizes):
        misfit = parallel_sizes.batch(sizes["gbs"], sizes["mbs"], layout.world_size // (tp * pp * cp))
        if misfit is not None:
            raise LayoutError(f"{misfit.text} ({counted})", hint=f"{misfit.hint[0].upper()}{misfit.hint[1:]}.")


def _divides(layout: RankLayout, counted: str, names: tuple[str, ...], values: tuple[int, ...]) -> None:
    product = values[0] * values[1] * values[2]
    if layout.world_size % product == 0:
        return
    stated = " x ".join(f"{name.upper()} {value}" for name, value in zip(names, values, strict=True) if value > 1)
    fitting = [nodes for nodes in range(1, layout.nodes + product + 1) if nodes * layout.ranks_per_node % product == 0]
    nearby = sorted(fitting, key=lambda nodes: abs(nodes - layout.nodes))[:2]
    raise LayoutError(
        f"{counted} cannot be divided by {stated} = {product}",
        hint=f"Use --nodes {' or '.join(str(nodes) for nodes in sorted(nearby))}, or change the parallel sizes.",
    )
