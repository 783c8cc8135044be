"""What a profile's network means for a run: the variables that pin it, and what the job checks NCCL's choice against.

The variables override the image's; those of the profile's [env], the recipe or the user override them. What differs by
fabric is in launcher/contract/fabrics. Sources on NVLink domains: coreweave/nccl-tests (GB200 scripts),
Azure/ai-infrastructure-on-azure (a01b073) graceblackwell.conf, NVIDIA/enroot `conf/hooks/98-nvidia.sh` for IMEX
channels, NVIDIA/nccl's documentation of NCCL_MNNVL_ENABLE.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from launcher._util.errors import ImageError
from launcher.config.cluster import Cluster
from launcher.contract.fabrics import FABRICS
from launcher.contract.fabrics.model import Fabric, NetworkRequest
from launcher.contract.frozen import dataclass
from launcher.discovery.image import Image
from launcher.planning.model import RankLayout, Variable
from launcher.runtimes.model import ContainerRuntime

if TYPE_CHECKING:
    from launcher.contract.records.request import NetworkOptions


@dataclass(frozen=True)
class Network:
    """The decision: variables with their origin, one sentence for people, and what is to be said besides."""

    variables: tuple[Variable, ...] = ()
    summary: str | None = None
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def plan_network(
    cluster: Cluster,
    runtime: ContainerRuntime,
    image: Image | None,
    layout: RankLayout,
    stated: Mapping[str, str | None],
) -> Network:
    """Decide the network's variables; `stated` holds those that the profile's [env], the recipe or the user set.

    Raises ImageError where the profile requires a fabric that the image cannot use.
    """
    if cluster.device == "cpu":
        return Network(summary=_summary(cluster))  # gloo reads none of these variables
    fabric = FABRICS.get(cluster.fabric or "")
    parts = [
        *([_fabric(fabric, cluster, image, layout, stated)] if fabric else []),
        *([_nvlink_domain(cluster, runtime, layout.nodes)] if cluster.nvlink_domain_nodes > 1 else []),
    ]
    if cluster.sharp and not (fabric and fabric.sharp):
        parts.append(Network(warnings=(_no_sharp(cluster),)))
    return Network(
        tuple(variable for part in parts for variable in part.variables),
        _summary(cluster, next((part.summary for part in parts if part.summary), None)),
        tuple(text for part in parts for text in part.warnings),
        tuple(text for part in parts for text in part.unchecked),
    )


def network_options(cluster: Cluster, layout: RankLayout) -> "NetworkOptions | None":
    """`options.network` of argv.json: what a rank compares NCCL's choice with; None where it does not look."""
    if cluster.network == "off" or cluster.fabric is None:
        return None
    return {
        "policy": cluster.network,
        "fabric": cluster.fabric,
        "nodes": layout.nodes,
        "ranks_per_node": layout.ranks_per_node,
        "nvlink_domain": cluster.nvlink_domain_nodes > 1,
        "nics_per_node": cluster.nics_per_node,
        "gdr": cluster.gdr,
        "sharp": cluster.sharp,
    }


def _fabric(
    fabric: Fabric, cluster: Cluster, image: Image | None, layout: RankLayout, stated: Mapping[str, str | None]
) -> Network:
    """Return what the fabric's own module decides."""
    request = NetworkRequest(
        policy=cluster.network,
        nodes=layout.nodes,
        ranks=layout.world_size,
        sharp=cluster.sharp,
        image=image.name if image else None,
        image_environment=image.environment if image else {},
        plugins=image.net_plugins if image else None,
        stated=stated,
    )
    found = fabric.variables(request)
    if found.refusal is not None:
        text, hint = found.refusal
        raise ImageError(text, where=f"network = require of the cluster profile {cluster.name!r}", hint=hint)
    origin = f"fabric {fabric.name}"
    removed = tuple(Variable(name, None, origin, "task", operation="unset") for name in found.unset)
    return Network(
        (*removed, *_variables(origin, **dict(found.variables))), found.summary, found.warnings, found.unchecked
    )


def _no_sharp(cluster: Cluster) -> str:
    able = ", ".join(fabric.title for fabric in FABRICS.values() if fabric.sharp)
    return (
        f"sharp = true of the cluster profile {cluster.name!r} has no effect: the fabric is "
        f"{cluster.fabric or 'not stated'}, and only switches of {able} reduce"
    )


def _nvlink_domain(cluster: Cluster, runtime: ContainerRuntime, nodes: int) -> Network:
    origin = f"NVLink domain of {cluster.nvlink_domain_nodes} nodes"
    # One node needs no memory of another: without these it runs where IMEX does not.
    across = _variables(origin, NCCL_MNNVL_ENABLE="1", NCCL_NVLS_ENABLE="1") if nodes > 1 else ()
    hooks = (Variable("NVIDIA_IMEX_CHANNELS", "0", origin, "host"),) if runtime.nvidia_hooks else ()
    return Network((*across, *_variables(origin, NCCL_NET_GDR_C2C="1"), *hooks))


def _variables(origin: str, **values: str) -> tuple[Variable, ...]:
    return tuple(Variable(name, value, origin, "task") for name, value in values.items())


_POLICIES = {
    "require": "a run that does not get it ends",
    "warn": "a run that does not get it continues with a warning",
    "off": "whether a run gets it is not checked",
}


def _summary(cluster: Cluster, plugin: str | None = None) -> str | None:
    """Return one line for people; None where the profile says nothing about a network."""
    if cluster.fabric is None and cluster.nvlink_domain_nodes == 1:
        return None
    parts: list[str] = [cluster.fabric or "not stated"]
    parts += [f"{cluster.nics_per_node} devices a node"] if cluster.nics_per_node else []
    parts += [f"NVLink joins {cluster.nvlink_domain_nodes} nodes"] if cluster.nvlink_domain_nodes > 1 else []
    parts += [plugin] if plugin else []
    return ", ".join(parts) + (f"; {_POLICIES[cluster.network]}" if cluster.fabric else "")
