"""Binding of a rank to the CPUs and the memory next to its GPU, before torch is loaded. It never fails a run.

The GPU is found by its PCI address, and sysfs lists the near CPUs: launch scripts assume contiguous numbering, which
not every machine has. Only CPUs that Slurm allowed this task are used. Ranks that share a NUMA node share its CPUs:
slices would keep threads of data loaders and of NCCL from idle ones.

Memory is preferred on the node (MPOL_PREFERRED), not bound to it: pinned buffers, data loaders and checkpoints in
writing may need more than a node's share, and under MPOL_BIND the kernel kills although another node has free memory.
"""

import ctypes
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..contract.files import append_line, write_json
from ..contract.records.timeline import GpuPlacement, NodePlacement, PlacementEvent, PlacementRecord
from . import gpus
from .environment import MARKER
from .gpus import Gpu
from .rank import Rank

_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Numbers of the system call. Source: Linux, arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h."""

_MPOL_PREFERRED = 1  # include/uapi/linux/mempolicy.h


@dataclass(frozen=True)
class Binding:
    """What a rank is bound to, or the reason why to nothing."""

    device: Optional[Gpu] = None
    node: Optional[int] = None
    """NUMA node next to the GPU; its memory is preferred."""
    cpus: frozenset[int] = frozenset()
    """CPUs to run on; empty where they stay unchanged."""
    why: Optional[str] = None
    """Why the CPUs stay unchanged."""

    @property
    def words(self) -> str:
        """Return the text for the rank's log."""
        gpu = f"GPU {self.device.index} ({self.device.address}): " if self.device else ""
        near = "" if self.node is None else f"NUMA node {self.node}, "
        return f"{gpu}{near}{f'bound to CPUs {cpulist(self.cpus)}' if self.cpus else f'CPUs not bound: {self.why}'}"


def plan_binding(device: Gpu, root: Path, allowed: frozenset[int]) -> Binding:
    """Return the binding of a rank with this GPU that may run on the CPUs `allowed`; `root` is sysfs."""
    sysfs = root / "bus/pci/devices" / device.address
    stated, nodes = _number(sysfs / "numa_node"), cpus_of_nodes(root)
    near = parse_cpus(_text(sysfs / "local_cpulist")) or nodes.get(-1 if stated is None else stated, frozenset())
    # A Grace Blackwell GPU's memory is a NUMA node without CPUs; the near one is that of its CPUs.
    node = stated if stated in nodes else next((each for each, cpus in nodes.items() if near and near <= cpus), None)
    if len(nodes) < 2:
        return Binding(device, why="this machine has one NUMA node")
    if node is None:
        return Binding(device, why=f"the machine does not report a near NUMA node (numa_node is {stated})")
    common = near & allowed
    if not common:
        why = f"the task may run only on CPUs {cpulist(allowed)}, but {cpulist(near)} are near (srun --cpu-bind)"
        return Binding(device, node, why=why)
    if common == allowed:
        return Binding(device, node, why=f"the task has only near CPUs ({cpulist(allowed)})")
    return Binding(device, node, common)


def cpus_of_nodes(root: Path) -> dict[int, frozenset[int]]:
    """Return the CPUs of each NUMA node that has any."""
    found = {}
    for path in (root / "devices/system/node").glob("node[0-9]*"):
        cpus = parse_cpus(_text(path / "cpulist"))
        if cpus:
            found[int(path.name[4:])] = cpus
    return dict(sorted(found.items()))


def parse_cpus(text: str) -> frozenset[int]:
    """Return the numbers in the kernel's notation `0-3,8`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def cpulist(cpus: "frozenset[int]") -> str:
    """Return the kernel's notation for these numbers."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def bind(rank: Rank, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Optional[Binding]:
    """Bind this process and print how; return None where there was nothing to do. Never raises."""
    if options.get("device") == "cpu" or environ.get(MARKER) == str(os.getpid()):
        return None  # a restarted process is already bound
    try:
        devices = gpus.visible(gpus.present(), environ)
        if not devices and options.get("device") != "gpu":
            return None
        device, why = gpus.choose(devices, rank.local_rank, environ)
        allowed = frozenset(os.sched_getaffinity(0))
        binding = plan_binding(device, Path("/sys"), allowed) if device else Binding(why=why)
        if binding.cpus:
            os.sched_setaffinity(0, binding.cpus)
        memory = prefer_memory(binding.node) if binding.node is not None else None
        _report(rank, binding, memory, devices, allowed)
    except Exception as error:
        print(f"numa: not bound: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    return binding


def prefer_memory(node: int) -> Optional[str]:
    """Prefer the node's memory for this process and its children; return the reason if that fails, else None."""
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return f"the system call's number is not known for {platform.machine()}"
    bits = ctypes.sizeof(ctypes.c_ulong) * 8
    mask = (ctypes.c_ulong * (node // bits + 1))()
    mask[node // bits] = 1 << node % bits
    library = ctypes.CDLL(None, use_errno=True)
    # The kernel reads one bit less than this number.
    most = ctypes.c_ulong(len(mask) * bits + 1)
    if library.syscall(ctypes.c_long(number), ctypes.c_long(_MPOL_PREFERRED), ctypes.byref(mask), most) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def _report(
    rank: Rank, binding: Binding, memory: Optional[str], devices: Sequence[Gpu], allowed: frozenset[int]
) -> None:
    """Print a line; write `placement/NNNN.json` on a node's first rank, and a line of the timeline on rank 0."""
    where = "" if binding.node is None else ", memory preferred there" if memory is None else f", memory not: {memory}"
    print(f"numa: {binding.words}{where}", file=sys.stderr, flush=True)
    if rank.local_rank != 0:
        return
    found = [plan_binding(device, Path("/sys"), allowed) for device in devices]
    content: NodePlacement = {
        "rank": rank.rank,
        "node": rank.node_rank,
        "allowed_cpus": cpulist(allowed),
        "bound_cpus": cpulist(binding.cpus),
        "numa_node": binding.node,
        "memory": memory or ("preferred" if binding.node is not None else None),
        "why": binding.why,
        "gpus": [_gpu(each.device, each.node) for each in found if each.device],
    }
    record: PlacementRecord = {"version": 1, **content}
    write_json(rank.paths.placement_record(rank.rank), record)
    if rank.rank == 0:
        line: PlacementEvent = {"time": time.time(), "rank": 0, "event": "placement", "seconds": None, **content}
        append_line(rank.paths.timeline, line)


def _gpu(device: Gpu, node: Optional[int]) -> GpuPlacement:
    return {
        "index": device.index,
        "uuid": device.uuid,
        "address": device.address,
        "name": device.name,
        "numa_node": node,
    }


def _text(path: Path) -> str:
    """Return the text of a file of /sys; an empty one where the kernel has none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> Optional[int]:
    """Return the number in a file of /sys; None where there is none."""
    try:
        return int(_text(path))
    except ValueError:
        return None
