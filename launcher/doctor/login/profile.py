"""Checks of the profile against what Slurm reports about its nodes and its configuration."""

import re
from collections import Counter

from launcher.contract.checks import Check, fail, ok, skip, warn
from launcher.doctor.site import Site
from launcher.slurm.info import parse_limit


def gpus_check(site: Site) -> Check:
    """Check the number and type of GPUs on each node, as Slurm counts them, against the profile."""
    name = "gpus"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    if site.cluster.device == "cpu":
        return skip(name, "the profile computes on CPUs")
    wanted, kind = site.cluster.gpus_per_node, site.cluster.gpu
    counts = Counter(node.gpus for node in site.own_nodes)
    value = ", ".join(f"{count} x {gpus}" for gpus, count in counts.most_common())
    if not any(counts):
        return warn(
            name,
            "no GRES",
            "Slurm knows no GPUs here: it refuses --gpus-per-node and does not keep jobs apart",
            "remove the directive in the profile (gpus-per-node = false) and request whole nodes (exclusive = true)",
            0,
        )
    other = [node for node in site.own_nodes if wanted is not None and node.gpus != wanted]
    if other:
        listed = ", ".join(f"{node.name} has {node.gpus}" for node in other[:8])
        judge = fail if len(other) == len(site.own_nodes) else warn
        return judge(
            name,
            value,
            f"the profile states {wanted} on each node: {listed}{' and others' if len(other) > 8 else ''}",
            "correct gpus_per_node, name the partition with the right nodes, or exclude these (--exclude)",
            min(node.gpus for node in other),
        )
    types = sorted({node.gpu_type for node in site.own_nodes if node.gpu_type})
    if kind is not None and types and not any(_same_type(kind, each) for each in types):
        return warn(
            name,
            ", ".join(types),
            f"the profile states {kind}, Slurm reports {', '.join(types)}",
            "check that this is the profile of this cluster; `launcher clusters list` shows the others",
        )
    if wanted is None:
        return skip(name, "the profile does not state gpus_per_node", value)
    return ok(name, f"{wanted} on each{f', {types[0]}' if len(types) == 1 else ''}", wanted)


def _same_type(kind: str, gres: str) -> bool:
    """Return whether a GRES type is a GPU model: H100 is `h100`, `nvidia_h100_80gb_hbm3`; B200 is not `gb200`."""
    return re.search(rf"(?<![a-z0-9]){re.escape(kind.lower())}(?![0-9])", gres.lower().replace("_", "-")) is not None


def cpus_check(site: Site) -> Check:
    """Check that the nodes have the CPUs and the memory that the profile requests."""
    name = "cpus and memory"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    if not site.own_nodes:
        return skip(name, "the partition has no nodes")
    cpus = min(node.cpus for node in site.own_nodes)
    memory = min(node.memory_mb for node in site.own_nodes)
    value = f"{cpus} CPUs, {memory / 1024:.0f} GiB"
    ranks = site.request.gpus_per_node or site.cluster.gpus_per_node or 1
    wanted = (site.cluster.cpus_per_task or 1) * ranks
    if wanted > cpus:
        return fail(
            name,
            value,
            f"{ranks} ranks of {site.cluster.cpus_per_task or 1} CPUs need {wanted}, the smallest node has {cpus}",
            f"cpus_per_task = {max(1, cpus // ranks)} in the profile",
            cpus,
        )
    if memory <= 1 and "mem" in site.cluster.directives:
        return warn(
            name,
            value,
            "Slurm does not know how much memory the nodes have (RealMemory), so --mem cannot be right",
            "remove it in the profile (mem = false)",
        )
    return ok(name, value)


def time_check(site: Site) -> Check:
    """Check that the partition allows the profile's time limit."""
    name = "time limit"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    wanted = site.request.time or site.cluster.time_limit
    limits = [group.time_limit_min for group in site.groups if group.partition == site.partition]
    most = limits[0] if limits else None
    allowed = "no limit" if most is None else f"up to {most // 60}:{most % 60:02d} h"
    if wanted is None:
        return ok(name, f"{allowed}; the profile states none")
    minutes = int(wanted) if wanted.isdigit() else parse_limit(wanted)
    if minutes is not None and most is not None and minutes > most:
        return fail(name, wanted, f"the partition allows {allowed}", "lower it: time_limit in the profile, --time")
    return ok(name, f"{wanted} ({allowed})")


def mpi_check(site: Site) -> Check:
    """Check that srun knows the profile's MPI type."""
    name = "mpi"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    wanted = site.cluster.mpi
    if wanted is None:
        return ok(name, f"Slurm's default, {site.config.get('MpiDefault', 'unknown')}")
    if not site.mpi_types:
        return skip(name, "srun --mpi=list did not answer", wanted)
    if wanted not in site.mpi_types:
        return fail(name, wanted, f"srun has no --mpi={wanted}", f"mpi = one of: {', '.join(site.mpi_types)}")
    return ok(name, wanted)


def topology_check(site: Site) -> Check:
    """Check that the topology plugin is the one that the profile states."""
    name = "topology"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    plugin = site.config.get("TopologyPlugin", "").removeprefix("topology/") or "none"
    if site.cluster.topology is None:
        return ok(name, plugin)
    if plugin != site.cluster.topology:
        return fail(
            name,
            plugin,
            f"the profile states {site.cluster.topology}: Slurm refuses --segment without it",
            "remove topology from the profile",
        )
    return ok(name, plugin)


CHECKS = (gpus_check, cpus_check, time_check, mpi_check, topology_check)
"""In the order of the table."""
