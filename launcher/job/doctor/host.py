"""Checks of the node itself (NUMA, memory, limits, shared memory, CPUs): verdicts over /proc, /sys and limits."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected
from .probes import Reading, file

_GIB = 1024**3
_UNLIMITED = 2**60
"""A limit this large is getrlimit's infinity: it is larger than any memory."""


def numa_check(nodes: Path, pci: Path, gpus: Sequence[str]) -> Check:
    """Report the machine's NUMA nodes and those of the GPUs. `gpus`: their PCI addresses."""
    name = "numa"
    count = len(list(nodes.glob("node[0-9]*"))) if nodes.is_dir() else 0
    if count == 0:
        return skip(name, f"{nodes} lists no NUMA node")
    if not gpus:
        return skip(name, "no GPU is seen", _nodes(count), count)
    numa_nodes = {gpu: file(pci / gpu / "numa_node").text for gpu in gpus}
    lost = [gpu for gpu, node in numa_nodes.items() if node is None or node.startswith("-")]
    if lost and count > 1:
        return warn(
            name,
            f"{len(lost)} of {len(gpus)} unknown",
            f"the kernel does not know the NUMA node of {', '.join(lost)}, so ranks cannot be bound to it",
            "firmware or hypervisor hide it; numa_binding = false in the profile accepts that",
            len(lost),
        )
    used = sorted({node for node in numa_nodes.values() if node is not None})
    return ok(name, _nodes(count) + (f", GPUs on {', '.join(used)}" if count > 1 else ""), count)


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def memory_check(meminfo: Reading, limit: Reading) -> Check:
    """Judge the node's memory, how much is free, and the job's limit."""
    name = "memory"
    sizes = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB", meminfo.text or "", re.MULTILINE)}
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    if total is None or free is None:
        return skip(name, meminfo.why or "/proc/meminfo does not show it")
    total_gib, free_gib = total / 1024**2, free / 1024**2
    value = f"{total_gib:.0f} GiB"
    if limit.text and limit.text.isdigit() and int(limit.text) < total * 1024:
        value += f", {int(limit.text) / _GIB:.0f} for this job"
    if free < total / 20:
        return warn(
            name,
            value,
            f"only {free_gib:.1f} GiB are free before the job starts",
            "another job shares the node, or an earlier one left processes or files in /dev/shm",
            total_gib,
        )
    return ok(name, value, total_gib)


def ports_check(ephemeral: Reading, reserved: Reading, port: int) -> Check:
    """Judge whether the kernel may give MASTER_PORT to another program of the node before rank 0 listens at it."""
    name = "ports"
    match = re.match(r"(\d+)\s+(\d+)", ephemeral.text or "")
    if match is None:
        return skip(name, ephemeral.why or "the kernel does not say which ports it gives to programs")
    first, last = int(match[1]), int(match[2])
    kept = re.findall(r"(\d+)(?:-(\d+))?", reserved.text or "")
    if not first <= port <= last or any(int(low) <= port <= int(high or low) for low, high in kept):
        return ok(name, f"{port}; the kernel gives out {first} to {last}", port)
    return warn(
        name,
        f"{port}, within {first} to {last}",
        f"the kernel gives ports {first} to {last} to any program that connects, so another may have MASTER_PORT",
        "`ports` below [rendezvous] in the cluster profile names others, such as those below this range; or the site "
        "keeps them free (net.ipv4.ip_local_reserved_ports)",
        port,
    )


def memlock_check(soft: int, total: Optional[int], expected: Expected) -> Check:
    """Judge how many bytes a process may pin: RDMA registers its buffers."""
    name = "memlock"
    unlimited = soft < 0 or soft >= _UNLIMITED
    value = "unlimited" if unlimited else f"{soft / 1024**2:.0f} MiB"
    if unlimited or (total is not None and soft >= total / 2):
        return ok(name, value)
    fabric = expected.network
    if fabric is None:
        return skip(name, "the profile names no fabric, and only RDMA needs more", value, soft)
    if not fabric.rdma:
        return ok(name, value, soft)
    return fail(
        name,
        value,
        f"{fabric.name} pins the memory that it sends: NCCL fails with `Cannot allocate memory`",
        "set LimitMEMLOCK=infinity for slurmd and PropagateResourceLimitsExcept=MEMLOCK in slurm.conf; otherwise the "
        "submitting shell's limit counts",
        soft,
    )


def files_check(soft: int, hard: int) -> Check:
    """Judge how many files a process may have open."""
    name = "open files"
    value = f"{_count(soft)} (up to {_count(hard)})"
    if 0 <= soft < 1024 or 0 <= hard < 4096:
        return warn(
            name,
            value,
            "data loaders and sockets of large jobs need more",
            "raise it in your shell before submitting (ulimit -n), or LimitNOFILE of slurmd",
            soft,
        )
    return ok(name, value, soft)


def _count(limit: int) -> str:
    return "unlimited" if limit < 0 or limit >= _UNLIMITED else str(limit)


def shm_check(size: Optional[int], free: Optional[int], why: str = "") -> Check:
    """Judge shared memory (bytes): it holds NCCL's buffers between ranks of a node and data loaders' batches."""
    name = "shm"
    if size is None or free is None:
        return fail(
            name,
            "missing",
            f"it cannot be read or written ({why})",
            "mount a tmpfs at /dev/shm; container runtimes do so unless configured otherwise",
        )
    value = f"{free / _GIB:.1f} of {size / _GIB:.1f} GiB free"
    if free < _GIB:
        return warn(
            name,
            value,
            "it holds data loaders' batches and NCCL's buffers, and a process that finds no space is killed (SIGBUS)",
            "remove files that earlier jobs left in it, or mount it larger",
            free / _GIB,
        )
    return ok(name, value, free / _GIB)


def cpus_check(cpus: int, ranks: int) -> Check:
    """Judge the number of CPUs that this job may use on the node."""
    name = "cpus"
    if cpus < ranks:
        return warn(
            name,
            f"{cpus} for {ranks} ranks",
            "ranks must share CPUs, although each keeps at least one busy",
            "request more with cpus_per_task in the profile, or exclusive = true in its directives",
            cpus,
        )
    return ok(name, f"{cpus} for {ranks} ranks", cpus)
