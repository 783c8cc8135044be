"""The parts of the program in order: the checks of one process on each node, across nodes, and of each rank."""

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
from ..errors import first_line
from ..rank import Rank
from . import (
    clock,
    compute,
    disk,
    gpudirect,
    gpus,
    host,
    inputs,
    links,
    probes,
    shared_directories,
    task_environment,
    xid,
)
from .expected import Expected
from .rendezvous import Client, Peer, RendezvousServer, connect, listen, missing

_SHM = "/dev/shm"  # noqa: S108 - the directory to check, not one for temporary files


@dataclass
class Findings:
    """Results of a rank so far."""

    checks: "list[Check]" = field(default_factory=list)
    facts: "dict[str, str]" = field(default_factory=dict)

    def add(self, name: str, look: Callable[[], Check]) -> None:
        """Run one check; if it raises, its result is `skip`, and the other checks still run."""
        try:
            self.checks.append(look())
        except Exception as error:  # any failure means unknown, which is never ok
            self.checks.append(skip(name, f"the check itself failed: {type(error).__name__}: {error}"))


def node_name() -> str:
    """Return the node's name in Slurm, else its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def look_at_node(this: Rank, expected: Expected, found: Findings, began: float) -> None:
    """Run the checks of one process on each node."""
    ranks = this.local_world_size
    claimed = task_environment.script_began(this.run_dir)
    seconds = None if claimed is None else began - claimed
    found.add("container", lambda: task_environment.started_check(seconds, expected))
    found.add("python", task_environment.python_check)
    found.add("training stack", task_environment.stack_check)
    found.add("mpi", lambda: task_environment.mpi_check(os.environ, expected))
    found.add("gpus from slurm", lambda: gpus.share_check(os.environ, expected, ranks))
    if expected.inputs:
        found.add("inputs", lambda: inputs.inputs_check(expected.inputs, expected.container, expected.inputs_left_out))
    look_at_machine(expected, found, ranks)
    found.facts |= task_environment.facts()


def look_at_machine(expected: Expected, found: Findings, ranks: int) -> None:
    """Run the checks of the machine itself, whatever started this process."""
    _gpus(expected, found, ranks)
    _links(expected, found)
    _host(expected, found, ranks)
    _disks(expected, found)


def _gpus(expected: Expected, found: Findings, ranks: int) -> None:
    if expected.device == "cpu":
        seen = gpus.Gpus(*(probes.Reading(None, "the profile computes on CPUs") for _ in range(4)))
    else:
        seen = gpus.read()
    addresses = gpus.addresses(seen)
    found.add("gpus", lambda: gpus.count_check(seen, expected, ranks))
    found.add("gpu type", lambda: gpus.kind_check(seen, expected))
    for name, judge in gpus.CHECKS.items():
        found.add(name, partial(judge, seen))
    log = probes.program(["dmesg"]) if addresses else probes.Reading(None, "there are no GPUs")
    found.add("xid", lambda: xid.xid_check(log, bool(addresses)))
    status = probes.program(["nvidia-smi", "nvlink", "--status"]) if addresses else probes.Reading(None)
    found.add("nvlink", lambda: links.nvlink_check(status, len(addresses)))
    nodes, pci = Path("/sys/devices/system/node"), Path("/sys/bus/pci/devices")
    found.add("numa", lambda: host.numa_check(nodes, pci, addresses))
    found.facts |= gpus.facts(seen)


def _links(expected: Expected, found: Findings) -> None:
    nics = links.nics()
    found.add("imex", lambda: links.imex_check(Path("/dev/nvidia-caps-imex-channels"), expected))
    found.add("nics", lambda: links.nic_check(nics, expected))
    found.add("rdma devices", lambda: links.verbs_check(nics, Path("/dev/infiniband"), expected))
    driver = probes.file(Path("/proc/driver/nvidia/version"))
    found.add("gpudirect", lambda: gpudirect.gdr_check(Path("/sys/module"), driver, os.uname().release, expected))
    found.add("acs", lambda: gpudirect.acs_check(Path("/sys/bus/pci/devices"), expected))
    command_line = probes.file(Path("/proc/cmdline"))
    found.add("iommu", lambda: gpudirect.iommu_check(Path("/sys/class/iommu"), command_line, expected))
    found.add("gpudirect write", lambda: gpudirect.bandwidth_check(nics, expected))
    provider = expected.network.provider if expected.network else None
    answer = probes.program(["fi_info", "-p", provider]) if provider else probes.Reading(None)
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
    # In a container the parent directory may exist without being the host's.
    tried = disk.probe(Path(disk.scratch_of(expected, os.environ)), make=not inside)
    found.add("scratch", lambda: disk.scratch_check(tried, expected, inside))
    found.add("mounts", lambda: disk.directories_check(expected.directories, expected.read_only, inside))


def check_across_nodes(this: Rank, expected: Expected, found: Findings) -> int:
    """Run rendezvous, clock and shared directories; return how many nodes came."""
    nodes = this.world_size // this.local_world_size
    address, _, port = this.master.rpartition(":")
    if "SLURM_JOB_ID" in os.environ:  # elsewhere the kernel itself has chosen the port
        kernel = Path("/proc/sys/net/ipv4")
        ephemeral, reserved = (probes.file(kernel / f"ip_local_{kind}") for kind in ("port_range", "reserved_ports"))
        found.add("ports", lambda: host.ports_check(ephemeral, reserved, int(port)))
    # Not a secret: it separates this run from others that connect to the same port.
    key = f"{this.run_dir.name}-{this.attempt}"
    endpoint, why = _join(this, address, int(port), nodes, key, expected.rendezvous_timeout_s)
    if endpoint is None:
        return _not_connected(this, found, why, nodes)
    marks = shared_directories.Marks(key, this.node_rank)
    directories = [str(this.paths.path), *(each for each in expected.directories if each not in expected.read_only)]
    marked = marks.write(directories)
    try:
        samples = endpoint.samples()
        peers = endpoint.exchange(Peer(this.node_rank, node_name(), marked))
    except (OSError, KeyError, TypeError, ValueError) as error:
        marks.remove()
        return _not_connected(this, found, f"the first node closed the connection: {error}", nodes)
    others = shared_directories.neighbours(peers, this.node_rank)
    seen = {directory: shared_directories.wait_for_marks(directory, key, others) for directory in directories}
    endpoint.finish()
    marks.remove()
    lacking = missing(peers, nodes)
    found.add("rendezvous", lambda: shared_directories.master_check(True, "", this.master, len(peers), nodes, lacking))
    found.add("clock", lambda: clock.clock_check(samples, this.node_rank == 0))
    found.add("shared", lambda: shared_directories.shared_check(seen, marks.refused, nodes == 1))
    return len(peers)


def _not_connected(this: Rank, found: Findings, why: str, nodes: int) -> int:
    """Record that nothing across nodes can be checked."""
    found.add("rendezvous", lambda: shared_directories.master_check(False, why, this.master, 0, nodes, ()))
    for name in ("clock", "shared"):
        found.checks.append(skip(name, "the nodes did not connect to each other"))
    return 0


def _join(
    this: Rank, address: str, port: int, nodes: int, key: str, timeout_s: float
) -> "tuple[Optional[RendezvousServer | Client], str]":
    if this.node_rank != 0:
        return connect(address, port, key, timeout_s)
    try:
        return RendezvousServer(listen(address, port), nodes, key, timeout_s), ""
    except OSError as error:
        return None, f"rank 0 cannot listen there: {error.strerror or error}"


def compute_checks(this: Rank, expected: Expected, found: Findings, complete: bool) -> None:
    """Run each rank's part: its GPU's matrix product, and the collectives of all ranks."""
    torch, why = compute.stack(expected)
    found.facts |= compute.facts(torch)
    found.add("matmul", lambda: _matmul(torch, why, expected, this.local_rank))
    if torch is None or not complete:
        why = why or "not all nodes of the job were reached"
        nothing = compute.Measurement(why=why)
        reduced = compute.AllReduceResult("", nothing, nothing, nothing)
    else:
        reduced = compute.all_reduce(torch, expected, this.world_size, this.local_world_size)
    found.checks += _collectives(reduced, this, expected)


def _collectives(reduced: compute.AllReduceResult, this: Rank, expected: Expected) -> Sequence[Check]:
    figure = compute.figure_check
    joined = (
        compute.failed_check(reduced.error, reduced.backend)
        if reduced.error
        else compute.connectivity_check(reduced.backend, this.world_size, reduced.total, this.world_size)
    )
    return (
        joined,
        figure("all-reduce node", "GB/s", reduced.node, expected.all_reduce_node_gbs, "all_reduce_node_gbs"),
        figure("all-reduce", "GB/s", reduced.all_nodes, expected.all_reduce_gbs, "all_reduce_gbs"),
    )


def _matmul(torch: Any, why: str, expected: Expected, local_rank: int) -> Check:
    measured = compute.Measurement(why=why)
    if torch is not None:
        try:
            measured = compute.matmul(torch, expected, local_rank)
        except RuntimeError as error:  # CUDA's errors are RuntimeErrors
            return fail("matmul", "failed", first_line(error), "see xid and ecc; the rank's log has more")
    return compute.figure_check("matmul", "TFLOP/s", measured, expected.matmul_tflops, "matmul_tflops")


def record(this: Rank, found: Findings, began: float) -> "dict[str, Any]":
    """Return the content of a rank's doctor/NNNN.json."""
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
