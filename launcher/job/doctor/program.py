"""The parts of the program in order: what one process of each node looks at, what each rank does."""

import os
import resource
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

from ...contract.checks import Check, fail, skip
from ..rank import Rank
from . import clock, compute, disk, gpus, host, links, probes, shared_directories, task_environment, xid
from .expected import Expected
from .rendezvous import Guest, Host, Visitor, listen, missing, visit

_SHM = "/dev/shm"  # noqa: S108 - no place for files of ours: it is what is looked at


@dataclass
class Findings:
    """What a rank has found so far."""

    checks: "list[Check]" = field(default_factory=list)
    facts: "dict[str, str]" = field(default_factory=dict)

    def add(self, name: str, look: Callable[[], Check]) -> None:
        """One check; one that breaks must not take the others along."""
        try:
            self.checks.append(look())
        except Exception as error:  # a driver's or a kernel's surprise: then it is not known, which is never ok
            self.checks.append(skip(name, f"the check itself failed: {type(error).__name__}: {error}"))


def node_name() -> str:
    """The node as Slurm calls it, else as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def look_at_node(this: Rank, expected: Expected, found: Findings, began: float) -> None:
    """What one process of each node looks at."""
    ranks = this.local_world_size
    claimed = task_environment.script_began(this.run_dir)
    seconds = None if claimed is None else began - claimed
    found.add("container", lambda: task_environment.started_check(seconds, expected))
    found.add("python", task_environment.python_check)
    found.add("mpi", lambda: task_environment.mpi_check(os.environ, expected))
    found.add("gpus from slurm", lambda: gpus.share_check(os.environ, expected, ranks))
    _gpus(expected, found, ranks)
    _links(expected, found)
    _host(expected, found, ranks)
    _disks(expected, found)
    found.facts |= task_environment.facts()


def _gpus(expected: Expected, found: Findings, ranks: int) -> None:
    if expected.device == "cpu":
        seen = gpus.Gpus(*(probes.Read(None, "the profile computes on CPUs") for _ in range(4)))
    else:
        seen = gpus.read()
    addresses = gpus.addresses(seen)
    found.add("gpus", lambda: gpus.count_check(seen, expected, ranks))
    found.add("gpu type", lambda: gpus.kind_check(seen, expected))
    for name, judge in gpus.CHECKS.items():
        found.add(name, partial(judge, seen))
    log = probes.program(["dmesg"]) if addresses else probes.Read(None, "there are no GPUs")
    found.add("xid", lambda: xid.xid_check(log, bool(addresses)))
    status = probes.program(["nvidia-smi", "nvlink", "--status"]) if addresses else probes.Read(None)
    found.add("nvlink", lambda: links.nvlink_check(status, len(addresses)))
    nodes, pci = Path("/sys/devices/system/node"), Path("/sys/bus/pci/devices")
    found.add("numa", lambda: host.numa_check(nodes, pci, addresses))
    found.facts |= gpus.facts(seen)


def _links(expected: Expected, found: Findings) -> None:
    nics = links.nics()
    found.add("imex", lambda: links.imex_check(Path("/dev/nvidia-caps-imex-channels"), expected))
    found.add("nics", lambda: links.nic_check(nics, expected))
    found.add("rdma devices", lambda: links.verbs_check(nics, Path("/dev/infiniband"), expected))
    provider = expected.network.provider if expected.network else None
    answer = probes.program(["fi_info", "-p", provider]) if provider else probes.Read(None)
    found.add("libfabric", lambda: links.provider_check(answer, expected))


def _host(expected: Expected, found: Findings, ranks: int) -> None:
    meminfo = probes.file(Path("/proc/meminfo"))
    limit = probes.file(Path("/sys/fs/cgroup/memory.max"))
    found.add("memory", lambda: host.memory_check(meminfo, limit))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    found.add("memlock", lambda: host.memlock_check(memlock, total, expected))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    found.add("open files", lambda: host.files_check(*files))
    found.add("shm", _shm)
    found.add("cpus", lambda: host.cpus_check(len(os.sched_getaffinity(0)), ranks))


def _shm() -> Check:
    tried = disk.probe(Path(_SHM), 1024**2)
    if tried.error is not None:
        return host.shm_check(None, None, tried.error)
    there = os.statvfs(_SHM)
    return host.shm_check(there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize)


def _disks(expected: Expected, found: Findings) -> None:
    inside = expected.container
    # A container may have a directory of that name's parent, which is not the host's.
    tried = disk.probe(Path(disk.scratch_of(expected, os.environ)), make=not inside)
    found.add("scratch", lambda: disk.scratch_check(tried, expected, inside))
    found.add("mounts", lambda: disk.directories_check(expected.directories, expected.read_only, inside))


def meet_others(this: Rank, expected: Expected, found: Findings) -> int:
    """Rendezvous, clock and shared directories; returns how many nodes came."""
    nodes = this.world_size // this.local_world_size
    address, _, port = this.master.rpartition(":")
    # No secret: it keeps apart what happens to connect to the same port.
    key = f"{this.run_dir.name}-{this.attempt}"
    place, why = _place(this, address, int(port), nodes, key, expected.patience_s)
    if place is None:
        return _alone(this, found, why, nodes)
    marks = shared_directories.Marks(key, this.node_rank)
    directories = [str(this.paths.path), *(each for each in expected.directories if each not in expected.read_only)]
    marked = marks.leave(directories)
    try:
        samples = place.samples()
        met = place.meet(Guest(this.node_rank, node_name(), marked))
    except (OSError, KeyError, TypeError, ValueError) as error:
        marks.remove()
        return _alone(this, found, f"the first node broke off: {error}", nodes)
    others = shared_directories.neighbours(met, this.node_rank)
    seen = {directory: shared_directories.look(directory, key, others) for directory in directories}
    place.leave()
    marks.remove()
    lacking = missing(met, nodes)
    found.add("rendezvous", lambda: shared_directories.master_check(True, "", this.master, len(met), nodes, lacking))
    found.add("clock", lambda: clock.clock_check(samples, this.node_rank == 0))
    found.add("shared", lambda: shared_directories.shared_check(seen, marks.refused, nodes == 1))
    return len(met)


def _alone(this: Rank, found: Findings, why: str, nodes: int) -> int:
    """Nothing across nodes can be told."""
    found.add("rendezvous", lambda: shared_directories.master_check(False, why, this.master, 0, nodes, ()))
    for name in ("clock", "shared"):
        found.checks.append(skip(name, "the nodes did not meet"))
    return 0


def _place(
    this: Rank, address: str, port: int, nodes: int, key: str, patience_s: float
) -> "tuple[Optional[Host | Visitor], str]":
    if this.node_rank != 0:
        return visit(address, port, key, patience_s)
    try:
        return Host(listen(address, port), nodes, key, patience_s), ""
    except OSError as error:
        return None, f"rank 0 cannot listen there: {error.strerror or error}"


def compute_checks(this: Rank, expected: Expected, found: Findings, complete: bool) -> None:
    """Each rank's part: its GPU's matrix product, and the collectives that all take part in."""
    torch, why = compute.stack(expected)
    found.facts |= compute.facts(torch)
    found.add("matmul", lambda: _matmul(torch, why, expected, this.local_rank))
    if torch is None or not complete:
        why = why or "not all nodes of the job came together"
        nothing = compute.Measured(why=why)
        reduced = compute.Reduced("", nothing, nothing, nothing)
    else:
        reduced = compute.all_reduce(torch, expected, this.world_size, this.local_world_size)
    found.checks += _collectives(reduced, this, expected)


def _collectives(reduced: compute.Reduced, this: Rank, expected: Expected) -> Sequence[Check]:
    figure = compute.figure_check
    joined = (
        compute.failed_check(reduced.error, reduced.backend)
        if reduced.error
        else compute.connectivity_check(reduced.backend, this.world_size, reduced.total, this.world_size)
    )
    return (
        joined,
        figure("all-reduce node", "GB/s", reduced.node, expected.all_reduce_node_gbs, "all_reduce_node_gbs"),
        figure("all-reduce", "GB/s", reduced.world, expected.all_reduce_gbs, "all_reduce_gbs"),
    )


def _matmul(torch: Any, why: str, expected: Expected, local_rank: int) -> Check:
    measured = compute.Measured(why=why)
    if torch is not None:
        try:
            measured = compute.matmul(torch, expected, local_rank)
        except RuntimeError as error:  # CUDA's errors are of this kind
            return fail("matmul", "failed", str(error).splitlines()[0], "see xid and ecc; the rank's log has more")
    return compute.figure_check("matmul", "TFLOP/s", measured, expected.matmul_tflops, "matmul_tflops")


def record(this: Rank, found: Findings, began: float) -> "dict[str, Any]":
    """What a rank leaves in doctor/NNNN.json."""
    return {
        "version": 1,
        "rank": this.rank,
        "local_rank": this.local_rank,
        "node_rank": this.node_rank,
        "node": node_name(),
        "host": socket.gethostname(),
        "began": began,
        "seconds": time.time() - began,
        "facts": found.facts,
        "checks": [check.to_dict() for check in found.checks],
    }
