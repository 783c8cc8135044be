"""Which GPU a rank has, and what it is bound to: made-up machines as tables."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job import gpus, numa
from launcher.job.gpus import Gpu
from launcher.job.numa import cpulist, parse_cpus, plan_binding
from launcher.job.rank import read_rank
from tests.job.ranks import ROOT, rank_environment


@dataclass(frozen=True)
class Machine:
    """GPUs as (address, numa_node, local_cpulist), and the CPUs of each NUMA node."""

    gpus: tuple[tuple[str, int, str], ...]
    nodes: Mapping[int, str]

    def sysfs(self, root: Path) -> Path:
        for address, node, cpus in self.gpus:
            place = root / "bus/pci/devices" / address
            place.mkdir(parents=True)
            (place / "numa_node").write_text(f"{node}\n")
            (place / "local_cpulist").write_text(f"{cpus}\n")
        for number, cpus in self.nodes.items():
            place = root / "devices/system/node" / f"node{number}"
            place.mkdir(parents=True)
            (place / "cpulist").write_text(f"{cpus}\n")
        return root

    def devices(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(index, f"GPU-{index}{index}", one[0], "H100") for index, one in enumerate(self.gpus))


BUSES = ("18", "2a", "3a", "5d", "9a", "ab", "ba", "db")
H100 = Machine(
    tuple(
        (f"0000:{bus}:00.0", index // 4, "0-47,96-143" if index < 4 else "48-95,144-191")
        for index, bus in enumerate(BUSES)
    ),
    {0: "0-47,96-143", 1: "48-95,144-191"},
)
# GPUs are not always numbered as the sockets are.
CROSSED = Machine(
    (("0000:07:00.0", 3, "48-63"), ("0000:47:00.0", 1, "16-31")), {n: f"{16 * n}-{16 * n + 15}" for n in range(4)}
)
GRACE = Machine(
    (
        ("0008:01:00.0", 0, "0-71"),
        ("0009:01:00.0", 0, "0-71"),
        ("0018:01:00.0", 1, "72-143"),
        ("0019:01:00.0", 1, "72-143"),
    ),
    # The nodes of the GPUs' own memory have no CPUs.
    {0: "0-71", 1: "72-143", **dict.fromkeys(range(2, 34), "")},
)
GRACE_OWN = Machine((("0018:01:00.0", 18, "72-143"),), GRACE.nodes)
SILENT = Machine((("0000:18:00.0", -1, ""),), {0: "0-7", 1: "8-15"})
SILENT_BUT_CPUS = Machine((("0000:18:00.0", -1, "8-15"),), {0: "0-7", 1: "8-15"})
EVERYWHERE = Machine((("0000:18:00.0", -1, "0-15"),), {0: "0-7", 1: "8-15"})
SMALL = Machine((("0000:18:00.0", 0, "0-7"),), {0: "0-7"})
VIRTUAL = Machine((("0000:18:00.0", -1, "0-7"),), {0: "0-7"})


@pytest.mark.parametrize(
    ("machine", "gpu", "allowed", "node", "cpus", "why"),
    [
        (H100, 0, "0-191", 0, "0-47,96-143", None),
        (H100, 3, "0-191", 0, "0-47,96-143", None),
        (H100, 4, "0-191", 1, "48-95,144-191", None),
        (H100, 7, "0-95", 1, "48-95", None),
        # The job has a part of the machine.
        (H100, 0, "40-55", 0, "40-47", None),
        # Slurm has bound the task to fewer CPUs than the node has, and near ones: that stays.
        (H100, 0, "0-11", 0, "", "the task has only near CPUs (0-11)"),
        # ... to far ones: nothing that would help is allowed.
        (H100, 0, "48-59", 0, "", "the task may run only on CPUs 48-59, but 0-47,96-143 are near (srun --cpu-bind)"),
        (CROSSED, 0, "0-63", 3, "48-63", None),
        (CROSSED, 1, "0-63", 1, "16-31", None),
        (GRACE, 2, "0-143", 1, "72-143", None),
        (GRACE_OWN, 0, "0-143", 1, "72-143", None),
        (SILENT, 0, "0-15", None, "", "the machine does not report a near NUMA node (numa_node is -1)"),
        (SILENT_BUT_CPUS, 0, "0-15", 1, "8-15", None),
        (EVERYWHERE, 0, "0-15", None, "", "the machine does not report a near NUMA node (numa_node is -1)"),
        (SMALL, 0, "0-7", None, "", "this machine has one NUMA node"),
        (VIRTUAL, 0, "0-7", None, "", "this machine has one NUMA node"),
    ],
)
def test_a_rank_is_bound_to_what_is_next_to_its_gpu(
    tmp_path: Path, machine: Machine, gpu: int, allowed: str, node: int | None, cpus: str, why: str | None
) -> None:
    device = machine.devices()[gpu]
    found = plan_binding(device, machine.sysfs(tmp_path), parse_cpus(allowed))
    assert (found.device, found.node, cpulist(found.cpus), found.why) == (device, node, cpus, why)
    assert str(why or f"bound to CPUs {cpus}") in found.words


def test_a_machine_without_sysfs_is_left_alone(tmp_path: Path) -> None:
    assert plan_binding(H100.devices()[0], tmp_path, frozenset({0})).cpus == frozenset()


@given(allowed=st.frozensets(st.integers(0, 200)), gpu=st.integers(0, 7))
def test_a_rank_is_never_bound_to_a_cpu_that_it_may_not_use(
    tmp_path_factory: pytest.TempPathFactory, allowed: frozenset[int], gpu: int
) -> None:
    root = H100.sysfs(tmp_path_factory.mktemp("sys"))
    found = plan_binding(H100.devices()[gpu], root, allowed)
    assert found.cpus <= allowed
    assert found.cpus <= parse_cpus(H100.nodes[gpu // 4])


@given(st.frozensets(st.integers(0, 300)))
def test_lists_of_cpus_are_written_as_they_are_read(cpus: frozenset[int]) -> None:
    assert parse_cpus(cpulist(cpus)) == cpus


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("0,1,2,3", [0, 1, 2, 3]),
        ("3,1", [3, 1]),
        ("", []),
        ("NoDevFiles", []),
        ("GPU-33,GPU-1", [3, 1]),
        ("GPU-", []),  # it names several
        ("MIG-GPU-22/1/0", [2]),
        ("MIG-6f2c1a9e-0000-0000-0000-000000000000", []),
        # Nothing after a device that there is not.
        ("2,9,1", [2]),
        ("1,-1,2", [1]),
    ],
)
def test_cuda_visible_devices(value: str | None, seen: list[int]) -> None:
    devices = H100.devices()[:4]
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert [device.index for device in gpus.visible(devices, environ)] == seen


@pytest.mark.parametrize(
    ("count", "local_rank", "index"),
    [(4, 0, 0), (4, 3, 3), (1, 3, 0), (2, 3, None), (0, 0, None)],
)
def test_the_gpu_of_a_local_rank(count: int, local_rank: int, index: int | None) -> None:
    device, why = gpus.choose(H100.devices()[:count], local_rank, {})
    assert (device.index if device else None) == index
    assert (why is None) == (device is not None)


def test_gpus_of_several_kinds_are_matched_only_where_cuda_counts_by_address() -> None:
    mixed = [Gpu(0, "GPU-0", "0000:01:00.0", "A100"), Gpu(1, "GPU-1", "0000:02:00.0", "T4")]
    assert gpus.choose(mixed, 1, {})[0] is None
    assert gpus.choose(mixed, 1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})[0] == mixed[1]


def test_what_nvidia_smi_lists() -> None:
    text = (
        "0, GPU-aa, 00000000:18:00.0, NVIDIA H200\n1, GPU-bb, 00000009:01:00.0, NVIDIA GB200\nNo devices were found\n"
    )
    assert gpus.from_smi(text) == (
        Gpu(0, "GPU-aa", "0000:18:00.0", "NVIDIA H200"),
        Gpu(1, "GPU-bb", "0009:01:00.0", "NVIDIA GB200"),
    )


def proc(directory: Path, addresses: Sequence[str]) -> Path:
    for minor, address in enumerate(addresses):
        (directory / address).mkdir(parents=True)
        text = (
            f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 133\nGPU UUID: \t GPU-{minor}\n"
            f"Bus Location: \t {address}\nDevice Minor: \t {minor}\n"
        )
        (directory / address / "information").write_text(text)
    return directory


def test_gpus_that_may_not_be_opened_do_not_count(tmp_path: Path) -> None:
    directory = proc(tmp_path / "proc", ["0000:9a:00.0", "0000:18:00.0", "0000:2a:00.0"])
    for minor in (0, 2):
        (tmp_path / f"nvidia{minor}").touch()
    found = gpus.from_proc(directory, tmp_path)
    assert [(one.index, one.uuid, one.address) for one in found] == [
        (0, "GPU-2", "0000:2a:00.0"),
        (1, "GPU-0", "0000:9a:00.0"),
    ]
    assert found[0].name == "NVIDIA H200"


BIND = """
import json, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from launcher.job import gpus, numa
from launcher.job.rank import read_rank
gpus.present = lambda: (gpus.Gpu(0, "GPU-0", "0000:18:00.0", "H200"),)
path = Path
numa.Path = lambda text: path({sys!r}) if text == "/sys" else path(text)
numa.bind(read_rank(os.environ), {{"device": "gpu"}})
print(json.dumps(sorted(os.sched_getaffinity(0))))
"""


def test_a_process_is_bound_and_says_so_once_for_its_node(tmp_path: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        pytest.skip("one CPU")
    near, far = mine[:1], mine[1:]
    machine = Machine(
        (("0000:18:00.0", 0, cpulist(frozenset(near))),),
        {0: cpulist(frozenset(near)), 1: cpulist(frozenset(far))},
    )
    program = BIND.format(root=str(ROOT), sys=str(machine.sysfs(tmp_path / "sys")))
    environ = rank_environment(tmp_path, 0, 2)
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[0]) == near, done.stderr
    said = f"numa: GPU 0 (0000:18:00.0): NUMA node 0, bound to CPUs {near[0]}, memory "
    assert said in done.stderr
    record = json.loads((tmp_path / "attempts/000/placement/0000.json").read_text())
    assert (record["bound_cpus"], record["numa_node"], record["why"]) == (str(near[0]), 0, None)
    assert record["gpus"][0]["address"] == "0000:18:00.0"
    line = json.loads((tmp_path / "attempts/000/timeline.jsonl").read_text())
    assert (line["event"], line["bound_cpus"]) == ("placement", str(near[0]))


def test_where_there_is_no_gpu_nothing_is_said_or_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rank = read_rank(rank_environment(tmp_path, 0, 2))
    for device in ("cpu", "auto"):
        assert numa.bind(rank, {"device": device}, {"CUDA_VISIBLE_DEVICES": ""}) is None
    assert capfd.readouterr().err == ""
    found = numa.bind(rank, {"device": "gpu"}, {"CUDA_VISIBLE_DEVICES": ""})
    assert found is not None
    assert "CPUs not bound: no GPU is seen" in capfd.readouterr().err


def test_whatever_happens_the_run_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> tuple[Gpu, ...]:
        raise OSError("no such thing")

    monkeypatch.setattr(gpus, "present", fails)
    assert numa.bind(read_rank(rank_environment(tmp_path, 0, 2)), {"device": "gpu"}, {}) is None
    assert "numa: not bound: OSError: no such thing" in capfd.readouterr().err


PREFER = """
import sys
sys.path.insert(0, {root!r})
from launcher.job import numa
print(numa.prefer_memory(0))
try:
    print(open("/proc/self/numa_maps").readline().split()[1])
except OSError:
    print("prefer:0")
"""


def test_memory_can_be_preferred_or_it_is_said_why_not() -> None:
    command = [sys.executable, "-c", PREFER.format(root=str(ROOT))]
    said, policy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    if said == "None":
        assert policy.startswith("prefer") and policy.endswith(":0")
    else:
        assert said in ("Operation not permitted", "Function not implemented")
