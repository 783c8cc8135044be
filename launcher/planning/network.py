"""What a profile's network means for NCCL: the variables that pin it, and what the run is to be checked against.

Stronger than the image, weaker than whatever the profile's [env], the recipe or the user say. Sources:
- EFA: awslabs/awsome-distributed-ai (EFA cheat sheet, 95b939c), aws/aws-ofi-nccl `src/platform-aws.cpp` (2daf7d3): the
  plugin itself sets what suits an instance, so that few variables remain. NVIDIA-NeMo/Megatron-Bridge
  `scripts/performance/utils/csp_plugins.py` (067f987): images of NGC since 26.06 set NCCL_NET_PLUGIN=spcx, which cannot
  drive EFA, and NCCL falls back to TCP.
- InfiniBand: coreweave/nccl-tests (cb86553): NCCL_NET_PLUGIN=none for NCCL's own transport (its issue 100 on spcx), the
  two variables of SHARP. CollNet itself comes from a plugin: Mellanox/nccl-rdma-sharp-plugins.
- NVLink domains: coreweave/nccl-tests (GB200 scripts), Azure/ai-infrastructure-on-azure (a01b073) graceblackwell.conf,
  NVIDIA/enroot `conf/hooks/98-nvidia.sh` for IMEX channels, NVIDIA/nccl's documentation of NCCL_MNNVL_ENABLE.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher._util.errors import ImageError
from launcher.config.cluster import Cluster
from launcher.discovery.image import Image, NetPlugin
from launcher.planning.model import Geometry, Variable
from launcher.runtimes.model import ContainerRuntime

_OFI = frozenset(("Libfabric", "AWS Libfabric", "OFI"))
"""Names by which aws-ofi-nccl is known; which of them counts differs between its releases."""

_NO_PLUGIN_HINT = (
    "Use an image with aws-ofi-nccl, or mount the nodes' own into it and name it: --mount /opt/amazon "
    "--env NCCL_NET_PLUGIN=/opt/amazon/ofi-nccl/lib/libnccl-net.so."
)


@dataclass(frozen=True)
class Network:
    """The decision: variables with their origin, one sentence for people, and what is to be said besides."""

    variables: tuple[Variable, ...] = ()
    summary: str | None = None
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def decide(
    cluster: Cluster, runtime: ContainerRuntime, image: Image | None, nodes: int, stronger: Mapping[str, str | None]
) -> Network:
    """Decide the network's variables; `stronger` holds those that the profile's [env], the recipe or the user set.

    Raises ImageError where the profile requires EFA and the image cannot use it.
    """
    if cluster.device == "cpu":
        return Network(summary=_summary(cluster))  # gloo reads none of it
    parts = [
        *([_efa(cluster, image, nodes, stronger)] if cluster.fabric == "efa" else []),
        *([_infiniband(cluster, image)] if cluster.fabric == "infiniband" else []),
        *([_roce(image, stronger)] if cluster.fabric == "roce" else []),
        *([_nvlink_domain(cluster, runtime, nodes)] if cluster.nvlink_domain_nodes > 1 else []),
    ]
    if cluster.sharp and cluster.fabric != "infiniband":
        parts.append(Network(warnings=(_sharp_elsewhere(cluster),)))
    return Network(
        tuple(variable for part in parts for variable in part.variables),
        _summary(cluster, next((part.summary for part in parts if part.summary), None)),
        tuple(text for part in parts for text in part.warnings),
        tuple(text for part in parts for text in part.unchecked),
    )


def settings(cluster: Cluster, shape: Geometry) -> dict[str, Any] | None:
    """`options.network` of argv.json: what a rank holds NCCL's choice against; None where nobody is to look."""
    if cluster.network == "off" or cluster.fabric is None:
        return None
    return {
        "policy": cluster.network,
        "fabric": cluster.fabric,
        "nodes": shape.nodes,
        "ranks_per_node": shape.ranks_per_node,
        "nvlink_domain": cluster.nvlink_domain_nodes > 1,
        "nics_per_node": cluster.nics_per_node,
    }


def _efa(cluster: Cluster, image: Image | None, nodes: int, stronger: Mapping[str, str | None]) -> Network:
    always = _variables(
        "fabric efa",
        # Without libfabric's own TCP among the candidates a missing device is an error, not a slow run.
        FI_PROVIDER="efa",
        # Memory in huge pages cannot be copied on write: a fork (DataLoader) may fail for want of memory.
        FI_EFA_USE_HUGE_PAGE="0",
    )
    known = image.net_plugins if image else None
    if known is None:
        why = "its contents could not be read" if image else "there is no image to look into"
        return Network(
            always, unchecked=(f"NCCL's plugin for EFA: {why}, so NCCL_NET_PLUGIN and NCCL_NET stay as set",)
        )
    found = _plugin(known, _OFI)
    if "NCCL_NET_PLUGIN" in stronger:
        # Somebody knows better where it is; a name may be pinned for a plugin that was seen, and for no other.
        stated = next((one for one in known if one.path == stronger["NCCL_NET_PLUGIN"]), None)
        pinned = (*_pin_path(found), *_pin_name(cluster, stated))
        return Network((*always, *pinned), stronger["NCCL_NET_PLUGIN"])
    if found is None:
        return Network(always, warnings=_without_plugin(cluster, image, nodes))
    pinned = _pin_name(cluster, found)
    name = "".join(f", NCCL_NET={variable.value}" for variable in pinned)
    return Network((*always, *_pin_path(found), *pinned), f"plugin {found.path}{name}")


def _pin_path(plugin: NetPlugin | None) -> tuple[Variable, ...]:
    return _variables("fabric efa", NCCL_NET_PLUGIN=plugin.path) if plugin else ()


def _pin_name(cluster: Cluster, plugin: NetPlugin | None) -> tuple[Variable, ...]:
    """The name that NCCL then insists on: a fallback is an error. A run that may go on without EFA is not to die so."""
    if plugin is None or not plugin.names or cluster.network != "require":
        return ()
    return _variables("fabric efa", NCCL_NET=plugin.names[0])


def _without_plugin(cluster: Cluster, image: Image | None, nodes: int) -> tuple[str, ...]:
    """A sentence for an image that cannot use EFA; of one node NVLink is all that is used."""
    if image is None or nodes == 1 or cluster.network == "off":
        return ()
    preset = image.environment.get("NCCL_NET_PLUGIN")
    said = f" (it sets NCCL_NET_PLUGIN={preset}, which cannot drive EFA)" if preset else ""
    text = f"the image {image.name} has no aws-ofi-nccl{said}: on EFA its NCCL falls back to TCP"
    if cluster.network == "require":
        raise ImageError(text, where=f"network = require of the cluster profile {cluster.name!r}", hint=_NO_PLUGIN_HINT)
    return (f"{text}. {_NO_PLUGIN_HINT}",)


def _infiniband(cluster: Cluster, image: Image | None) -> Network:
    preset = _presets_spcx(image)
    if not cluster.sharp:
        # spcx is for Spectrum-X Ethernet; NCCL's own transport needs no plugin.
        return Network(_variables("fabric infiniband", NCCL_NET_PLUGIN="none") if preset else ())
    sharp = _variables("fabric infiniband", NCCL_COLLNET_ENABLE="1", SHARP_COLL_ENABLE_PCI_RELAXED_ORDERING="1")
    if image is None or image.net_plugins is None:
        return Network(sharp, unchecked=("NCCL's plugin for SHARP: there is no image to look into",))
    plugin = next((one for one in image.net_plugins if any(map(_can_reduce, one.names))), None)
    if plugin is None:
        text = f"the image {image.name} has no plugin of NCCL that knows SHARP (nccl-rdma-sharp-plugins, in HPC-X)"
        plain = _variables("fabric infiniband", NCCL_NET_PLUGIN="none") if preset else ()
        return Network((*sharp, *plain), warnings=(f"{text}: the profile's sharp = true has no effect",))
    pinned = _variables("fabric infiniband", NCCL_NET_PLUGIN=plugin.path) if preset else ()
    return Network((*sharp, *pinned), f"SHARP by {plugin.path}")


def _can_reduce(name: str) -> bool:
    return name.startswith(("IBext", "NCCL RDMA Plugin", "UCX"))


def _roce(image: Image | None, stronger: Mapping[str, str | None]) -> Network:
    if not _presets_spcx(image) or "NCCL_NET_PLUGIN" in stronger:
        return Network()
    return Network(
        unchecked=(
            "whether this RoCE is Spectrum-X, for which the image sets NCCL_NET_PLUGIN=spcx (else the profile's [env] "
            "sets it to none)",
        )
    )


def _presets_spcx(image: Image | None) -> bool:
    return "spcx" in ((image.environment.get("NCCL_NET_PLUGIN") if image else None) or "")


def _sharp_elsewhere(cluster: Cluster) -> str:
    return (
        f"sharp = true of the cluster profile {cluster.name!r} is about InfiniBand switches, and its fabric is "
        f"{cluster.fabric or 'not stated'}: nothing is set for it"
    )


def _nvlink_domain(cluster: Cluster, runtime: ContainerRuntime, nodes: int) -> Network:
    origin = f"NVLink domain of {cluster.nvlink_domain_nodes} nodes"
    # One node needs no memory of another: without these it runs where IMEX does not.
    across = _variables(origin, NCCL_MNNVL_ENABLE="1", NCCL_NVLS_ENABLE="1") if nodes > 1 else ()
    hooks = (Variable("NVIDIA_IMEX_CHANNELS", "0", origin, "host"),) if runtime.nvidia_hooks else ()
    return Network((*across, *_variables(origin, NCCL_NET_GDR_C2C="1"), *hooks))


def _plugin(plugins: Iterable[NetPlugin], names: frozenset[str]) -> NetPlugin | None:
    return next((one for one in plugins if names & set(one.names)), None)


def _variables(origin: str, **values: str) -> tuple[Variable, ...]:
    return tuple(Variable(name, value, origin, "task") for name, value in values.items())


_POLICIES = {
    "require": "a run that does not get it ends",
    "warn": "a run that does not get it is warned",
    "off": "nobody looks whether a run gets it",
}


def _summary(cluster: Cluster, plugin: str | None = None) -> str | None:
    """One line for people; None where the profile says nothing of a network."""
    if cluster.fabric is None and cluster.nvlink_domain_nodes == 1:
        return None
    parts: list[str] = [cluster.fabric or "not stated"]
    parts += [f"{cluster.nics_per_node} devices a node"] if cluster.nics_per_node else []
    parts += [f"NVLink joins {cluster.nvlink_domain_nodes} nodes"] if cluster.nvlink_domain_nodes > 1 else []
    parts += [plugin] if plugin else []
    return ", ".join(parts) + (f"; {_POLICIES[cluster.network]}" if cluster.fabric else "")
