"""The back end that carries tokens between experts, and whether this network supports it.

Sources:
- NVIDIA-NeMo/Megatron-Bridge issue 3343: with experts spread over two nodes on EFA both back ends die, HybridEP by an
  illegal instruction where it looks for mlx5 devices (select_net); within a node (EP 8) the same recipe works.
- megatron-core 0.19.2, `core/transformer/transformer_config.py`: `flex` means DeepEP unless a back end is named; of the
  back ends HybridEP alone knows multi-node NVLink.
- Megatron-Bridge 0.6.2, `training/flex_dispatcher_backend.py`: DeepEP is refused on GB200 and GB300;
  `scripts/performance/utils/utils.py` (067f987): HybridEP's three variables, at most 72 ranks of a GB200's domain.
- deepseek-ai/DeepEP pull request 521 (NCCL's GIN as transport: DEEP_EP_BACKEND=nccl); crazyguitar/pysheeet (fbe35ba):
  NCCL_GIN_TYPE=2, the proxy, on EFA. awslabs/awsome-distributed-ai pull request 1116: UCCL is a `deep_ep` of its own.
- awslabs/awsome-distributed-ai (95b939c), 3.test_cases/megatron/megatron-bridge: DeepEP over NVSHMEM's libfabric
  transport, measured on p6-b300 with Megatron Bridge; its image sets NVSHMEM_REMOTE_TRANSPORT=libfabric. The package
  nvshmem alone says nothing: torch's wheels bring it.
"""

from collections.abc import Mapping
from typing import Any

from launcher._util.errors import OverrideError
from launcher.config.cluster import Cluster
from launcher.contract.fabrics import FABRICS
from launcher.contract.frozen import dataclass
from launcher.discovery.image import Image
from launcher.planning.model import RankLayout, Variable

TYPE_KEY = "model.moe_token_dispatcher_type"
BACKEND_KEY = "model.moe_flex_dispatcher_backend"
KEYS = (TYPE_KEY, BACKEND_KEY, "model.moe_enable_deepep")

_SHOWN = {
    "deepep": "DeepEP",
    "deepepv2": "DeepEP 2",
    "hybridep": "HybridEP",
    "flex": "the flex dispatcher (DeepEP unless a back end is named)",
}
_GRACE = ("GB200", "GB300")
_ALTERNATIVE = f"Use {TYPE_KEY}=alltoall (NCCL itself)"


@dataclass(frozen=True)
class Dispatcher:
    """The decision: the back end's name (None: not known), its variables, and messages about it."""

    name: str | None = None
    variables: tuple[Variable, ...] = ()
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()
    """Those of `unchecked` on which it depends whether the run works."""


def name_of(values: Mapping[str, Any]) -> str | None:
    """Return what the values say: alltoall, allgather, deepep, deepepv2, hybridep, ncclep; `flex` without a back end.

    None where they say nothing.
    """
    kind, backend = values.get(TYPE_KEY), values.get(BACKEND_KEY)
    if kind in ("alltoall", "allgather"):
        return str(kind)
    if values.get("model.moe_enable_deepep") is True:
        return "deepep"
    return str(backend) if backend else "flex" if kind == "flex" else None


def plan_dispatcher(
    cluster: Cluster,
    image: Image | None,
    layout: RankLayout,
    values: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    stated: bool = True,
) -> Dispatcher:
    """Judge the dispatcher on this network; `sizes` holds the parallel sizes that are known.

    `stated` is whether the user named the dispatcher, rather than the recipe.

    Raises OverrideError with the alternative for what cannot work.
    """
    name = name_of(values)
    if cluster.device == "cpu" or layout.nodes == 1 or sizes.get("ep") == 1:
        return Dispatcher(name)
    if name is None:
        matters = _without_mlx5(cluster) or cluster.nvlink_domain_nodes > 1
        unknown = (f"{TYPE_KEY}: the recipe decides, and not each works here",) if matters else ()
        return Dispatcher(unchecked=unknown, guesses=unknown)
    if name == "deepep" and cluster.gpu in _GRACE:
        return _on_grace(cluster.gpu or "", stated=stated)
    if name == "hybridep":
        return _hybridep(cluster, layout, sizes)
    if _without_mlx5(cluster) and name in ("deepep", "deepepv2", "flex"):
        return _without_mlx5_devices(name, cluster, image, layout, sizes)
    return Dispatcher(name)


def _hybridep(cluster: Cluster, layout: RankLayout, sizes: Mapping[str, int]) -> Dispatcher:
    """Judge HybridEP: NVLink inside a domain; between domains InfiniBand where a domain is one node, else nothing."""
    domain_ranks = layout.ranks_per_node * cluster.nvlink_domain_nodes
    group = _group(sizes)
    if group is not None and (group > domain_ranks or (cluster.nvlink_domain_nodes == 1 and domain_ranks % group)):
        if cluster.nvlink_domain_nodes > 1:
            raise OverrideError(
                f"HybridEP's groups of {_counted(sizes)} ranks are larger than an NVLink domain of {domain_ranks} "
                f"({cluster.nvlink_domain_nodes} nodes x {layout.ranks_per_node}); between domains it does not work",
                where=f"{BACKEND_KEY}=hybridep",
                hint=f"{_ALTERNATIVE}, or EP of at most {domain_ranks}.",
            )
        if _without_mlx5(cluster):
            raise _refused("hybridep", cluster, sizes, layout)
    origin = "dispatcher hybridep"
    found = [
        Variable("NVLINK_DOMAIN_SIZE", str(domain_ranks), origin, "task"),
        Variable("USE_MNNVL", "1" if cluster.nvlink_domain_nodes > 1 else "0", origin, "task"),
    ]
    if "ep" in sizes:
        ranks = str(min(sizes["ep"], domain_ranks))
        found.append(Variable("NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN", ranks, origin, "task"))
    elif _without_mlx5(cluster) or cluster.nvlink_domain_nodes > 1:
        return Dispatcher("hybridep", tuple(found), unchecked=(_unknown_span("hybridep"),))
    return Dispatcher("hybridep", tuple(found))


def _without_mlx5(cluster: Cluster) -> bool:
    fabric = FABRICS.get(cluster.fabric or "")
    return fabric is not None and fabric.without_mlx5


def _without_mlx5_devices(
    name: str, cluster: Cluster, image: Image | None, layout: RankLayout, sizes: Mapping[str, int]
) -> Dispatcher:
    """Judge DeepEP without mlx5 devices: between nodes it needs another transport, which the image must have."""
    group = _group(sizes)
    if group is not None and layout.ranks_per_node % group == 0:
        return Dispatcher(name)
    backends = image.moe_backends if image else ()
    if "uccl" in backends:
        return Dispatcher(name, unchecked=("whether the image's deep_ep is UCCL's, which needs no mlx5 devices",))
    if "nccl-gin" in backends and image is not None:
        values = {"DEEP_EP_BACKEND": "nccl", "NCCL_GIN_TYPE": "2"}
        found = (
            Variable(key, value, f"dispatcher {name} over NCCL GIN", "task")
            for key, value in values.items()
            if key not in image.environment  # an image with another kind of GIN says so itself
        )
        return Dispatcher(name, tuple(found), unchecked=("whether the image's deep_ep was built for NCCL GIN",))
    if image is not None and _over_libfabric(cluster, image):
        unchecked = "whether the image's deep_ep was built for NVSHMEM's libfabric transport, which it selects"
        return Dispatcher(name, unchecked=(unchecked,))
    if group is None:
        return Dispatcher(name, unchecked=(_unknown_span(name),))
    raise _refused(name, cluster, sizes, layout)


def _over_libfabric(cluster: Cluster, image: Image) -> bool:
    """Whether image or profile select NVSHMEM's libfabric transport, and the image has NVSHMEM."""
    selected = cluster.env.get("NVSHMEM_REMOTE_TRANSPORT") or image.environment.get("NVSHMEM_REMOTE_TRANSPORT")
    return selected == "libfabric" and "nvshmem" in image.moe_backends


def _on_grace(gpu: str, *, stated: bool) -> Dispatcher:
    """Judge DeepEP where a node is part of a larger NVLink domain. A recipe is written for other nodes as well."""
    text = f"DeepEP does not support NVLink between nodes, and Megatron Bridge refuses it on {gpu}"
    if stated:
        hint = f"Use {BACKEND_KEY}=hybridep, or {TYPE_KEY}=alltoall."
        raise OverrideError(text, where=f"{BACKEND_KEY}=deepep", hint=hint)
    return Dispatcher("deepep", warnings=(f"{text}: the recipe's choice is replaced by alltoall there",))


def _refused(name: str, cluster: Cluster, sizes: Mapping[str, int], layout: RankLayout) -> OverrideError:
    fabric = FABRICS[cluster.fabric or ""].title
    return OverrideError(
        f"{_SHOWN[name]} between nodes needs mlx5 devices, and {fabric} has none: groups of {_counted(sizes)} ranks "
        f"leave a node of {layout.ranks_per_node}, and the run would crash at its first step",
        where=f"{TYPE_KEY}=flex",
        hint=f"{_ALTERNATIVE}, groups within a node, or for DeepEP an image whose manifest lists nccl-gin or uccl, or "
        "nvshmem with NVSHMEM_REMOTE_TRANSPORT=libfabric.",
    )


def _unknown_span(name: str) -> str:
    return f"whether {_SHOWN[name]} works here: model.expert_model_parallel_size: the recipe decides"


def _group(sizes: Mapping[str, int]) -> int | None:
    """Return how many ranks exchange tokens, experts' own tensor parallelism included; None where EP is not known."""
    return sizes["ep"] * sizes.get("etp", 1) if "ep" in sizes else None


def _counted(sizes: Mapping[str, int]) -> str:
    etp = sizes.get("etp", 1)
    return f"EP {sizes['ep']}" + (f" x ETP {etp} = {sizes['ep'] * etp}" if etp > 1 else "")
