"""Verdicts over a node's devices, memory, disks, clocks and what its ranks measured."""

import errno
from pathlib import Path

import pytest

from launcher.contract.checks import Check, from_dict
from launcher.job.doctor import clock, compute, disk, gpudirect, host, links, shared_directories, task_environment
from launcher.job.doctor.expected import Expected, parse
from launcher.job.doctor.probes import Reading
from launcher.job.doctor.rendezvous import Peer
from launcher.job.errors import UserError

EFA = Expected(device="gpu", fabric="efa", nics_per_node=4)
IB = Expected(device="gpu", fabric="infiniband", nics_per_node=4)
GIB = 1024**3


def device(root: Path, name: str, **files: str) -> None:
    port = root / name / "ports/1"
    port.mkdir(parents=True)
    (root / name / "device").mkdir()
    (root / name / "device/vendor").write_text(files.pop("vendor", "0x15b3") + "\n")
    given = {"state": "4: ACTIVE", "phys_state": "5: LinkUp", "link_layer": "InfiniBand", "rate": "400 Gb/sec (4X NDR)"}
    for key, text in {**given, **files}.items():
        (port / key).write_text(f"{text}\n")


def test_infiniband(tmp_path: Path) -> None:
    for number in range(4):
        device(tmp_path, f"mlx5_{number}")
    device(tmp_path, "mlx5_bond_0", link_layer="Ethernet", rate="100 Gb/sec (2X HDR)")
    found = links.nics(tmp_path)
    assert links.nic_check(found, IB).value == "4 infiniband"
    assert links.nic_check(found, Expected(fabric="roce", nics_per_node=1)).verdict == "ok"
    assert links.nic_check(found, Expected(fabric="infiniband")).verdict == "skip"
    assert links.nic_check(found, Expected()).verdict == "skip"
    assert links.nic_check(found, EFA).verdict == "fail"


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"state": "1: DOWN", "phys_state": "3: Disabled"}, "fail", "mlx5_3 (DOWN, Disabled)"),
        ({"rate": "200 Gb/sec (4X HDR)"}, "warn", "mlx5_3 (200 Gb/s instead of 400)"),
    ],
)
def test_a_link_that_is_not_as_the_others(tmp_path: Path, change: dict[str, str], verdict: str, words: str) -> None:
    for number in range(3):
        device(tmp_path, f"mlx5_{number}")
    device(tmp_path, "mlx5_3", **change)
    check = links.nic_check(links.nics(tmp_path), IB)
    assert check.verdict == verdict
    assert words in check.reason


def test_a_missing_nic(tmp_path: Path) -> None:
    for name in ("rdmap79s0", "rdmap80s0", "efa_2"):
        device(tmp_path, name, vendor="0x1d0f", link_layer="Unspecified", rate="")
    found = links.nics(tmp_path)
    check = links.nic_check(found, EFA)
    assert (check.verdict, check.value) == ("fail", "3 of 4")
    assert "the profile says 4" in check.reason
    device(tmp_path, "rdmap82s0", vendor="0x1d0f", link_layer="Unspecified", rate="")
    assert links.nic_check(links.nics(tmp_path), EFA).value == "4 efa"
    assert links.nic_check([], EFA).verdict == "fail"
    devices = tmp_path / "infiniband"
    devices.mkdir()
    (devices / "uverbs0").touch()
    assert links.verbs_check(found, devices, EFA).value == "1 of 3"
    assert links.verbs_check(found[:1], devices, EFA).verdict == "ok"
    assert links.verbs_check(found, devices, Expected()).verdict == "skip"


def test_libfabric() -> None:
    told = "provider: efa\n    fabric: efa\n    domain: rdmap79s0-rdm\n    type: FI_EP_RDM\n"
    assert links.provider_check(Reading(told), EFA).verdict == "ok"
    missing = Reading(None, "fi_info ended with status 61: fi_getinfo: -61 (No data available)")
    assert links.provider_check(missing, EFA).verdict == "fail"
    assert links.provider_check(Reading(None, "fi_info is not installed"), EFA).verdict == "skip"
    assert links.provider_check(Reading(told), IB).verdict == "skip"


OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023"


@pytest.mark.parametrize(
    ("module", "driver", "kernel", "expected", "verdict", "words"),
    [
        ("nvidia_peermem", Reading(CLOSED), "5.4.0-90", IB, "ok", "nvidia_peermem"),
        (None, Reading(OPEN), "6.8.0-1021-aws", IB, "ok", "DMA-BUF"),
        (None, Reading(CLOSED), "6.8.0-1021-aws", IB, "fail", "modprobe nvidia_peermem"),
        (None, Reading(OPEN), "5.4.0-90", IB, "fail", "Linux 5.12"),
        (None, Reading(None, "no such file"), "6.8.0", IB, "skip", "cannot be asked"),
        (None, Reading(CLOSED), "6.8.0", EFA, "skip", "EFA's own driver"),
        (None, Reading(CLOSED), "6.8.0", Expected(fabric="infiniband", gdr=False), "skip", "gdr = false"),
        (None, Reading(CLOSED), "6.8.0", Expected(fabric="fastrak"), "skip", "has no GPUDirect RDMA"),
        (None, Reading(CLOSED), "6.8.0", Expected(), "skip", "names no fabric"),
    ],
)
def test_gpudirect(
    tmp_path: Path, module: str | None, driver: Reading, kernel: str, expected: Expected, verdict: str, words: str
) -> None:
    if module is not None:
        (tmp_path / module).mkdir()
    check = gpudirect.gdr_check(tmp_path, driver, kernel, expected)
    assert check.verdict == verdict
    assert words in f"{check.value} {check.reason} {check.remedy}"


def config_space(control: int, *, length: int = 4096) -> bytes:
    """A bridge's registers: AER at 0x100, then ACS at 0x148 with this control register."""
    space = bytearray(length)
    if length > 0x150:
        space[0x100:0x104] = (0x148 << 20 | 1 << 16 | 0x01).to_bytes(4, "little")
        space[0x148:0x14C] = (1 << 16 | 0x0D).to_bytes(4, "little")
        space[0x14E:0x150] = control.to_bytes(2, "little")
    return bytes(space)


@pytest.mark.parametrize(
    ("controls", "length", "verdict", "words"),
    [
        ((0, 0), 4096, "ok", "off"),
        ((0, 0x1D), 4096, "warn", "on for 1 of 2"),
        # Source Validation alone redirects nothing.
        ((0x01, 0x01), 4096, "ok", "off"),
        ((0, 0x1D), 64, "skip", "for root alone"),
        ((), 4096, "skip", "no PCI bridge is seen"),
    ],
)
def test_acs(tmp_path: Path, controls: tuple[int, ...], length: int, verdict: str, words: str) -> None:
    for number, control in enumerate(controls):
        bridge = tmp_path / f"0000:{number:02x}:00.0"
        bridge.mkdir()
        (bridge / "class").write_text("0x060400\n")
        (bridge / "config").write_bytes(config_space(control, length=length))
    other = tmp_path / "0000:99:00.0"
    other.mkdir()
    (other / "class").write_text("0x030200\n")
    check = gpudirect.acs_check(tmp_path, IB)
    assert check.verdict == verdict
    assert words in f"{check.value} {check.reason}"


@pytest.mark.parametrize(
    ("units", "line", "machine", "verdict"),
    [
        ((), Reading("ro"), "x86_64", "ok"),
        (("dmar0",), Reading("ro intel_iommu=on iommu=pt"), "x86_64", "ok"),
        (("dmar0",), Reading("ro iommu.passthrough=1"), "x86_64", "ok"),
        (("dmar0",), Reading("ro intel_iommu=on"), "x86_64", "warn"),
        (("dmar0",), Reading(None, "hidden"), "x86_64", "skip"),
        (("smmu3",), Reading("ro"), "aarch64", "skip"),
    ],
)
def test_iommu(tmp_path: Path, units: tuple[str, ...], line: Reading, machine: str, verdict: str) -> None:
    for unit in units:
        (tmp_path / unit).mkdir()
    assert gpudirect.iommu_check(tmp_path, line, IB, machine).verdict == verdict


WRITE_BW = """\
 #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]
 65536      1417700          0.00               {}             0.708801
"""


def test_writing_from_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device(tmp_path / "ib", "mlx5_0")
    found = links.nics(tmp_path / "ib")
    nic = found[0]
    assert gpudirect.judged(Reading(WRITE_BW.format("371.61")), nic).value == "372 Gb/s"
    assert gpudirect.judged(Reading(WRITE_BW.format("98.10")), nic).verdict == "warn"
    assert gpudirect.judged(Reading(None, "Couldn't allocate MR"), nic).verdict == "warn"
    assert gpudirect.judged(Reading("nothing"), nic).verdict == "skip"
    assert "no adapter" in gpudirect.bandwidth_check([], IB).reason
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert "perftest" in gpudirect.bandwidth_check(found, IB).reason
    usage = programs / "ib_write_bw"
    usage.write_text("#!/bin/sh\necho usage; exit 1\n")
    usage.chmod(0o755)
    assert "without CUDA" in gpudirect.bandwidth_check(found, IB).reason
    usage.write_text(f"#!/bin/sh\necho '--use_cuda=<gpu>'\necho '{WRITE_BW.format('390.00')}'\n")
    assert gpudirect.bandwidth_check(found, IB).value == "390 Gb/s"


def test_imex(tmp_path: Path) -> None:
    rack = Expected(nvlink_domain_nodes=18)
    assert links.imex_check(tmp_path, Expected()).verdict == "skip"
    assert links.imex_check(tmp_path / "none", rack).verdict == "fail"
    (tmp_path / "channel0").touch()
    assert links.imex_check(tmp_path, rack).value == "channel0"


@pytest.mark.parametrize(
    ("offset", "trip", "verdict"),
    [(0.0002, 0.001, "ok"), (-0.4, 0.001, "ok"), (3.5, 0.002, "warn"), (-3600.0, 0.002, "fail"), (2.0, 8.0, "skip")],
)
def test_clocks(offset: float, trip: float, verdict: str) -> None:
    recorded = [
        clock.Sample(1000.0 + offset, 1000.0 + (trip + late) / 2, 1000.0 + offset + trip + late)
        for late in (0.5, 0.0, 9.0)
    ]
    check = clock.clock_check(recorded, False)
    assert check.verdict == verdict
    assert check.number is not None
    assert abs(check.number - offset) < 0.01
    if verdict in ("warn", "fail"):
        assert ("ahead of" if offset > 0 else "behind") in check.reason


def test_a_clock_without_an_answer() -> None:
    assert clock.clock_check([], False).verdict == "skip"
    assert clock.clock_check([], True).verdict == "skip"


MEMINFO = Reading("MemTotal:       2113461852 kB\nMemFree: 7 kB\nMemAvailable:   2000000000 kB\n")


def test_memory() -> None:
    assert host.memory_check(MEMINFO, Reading("max")).value == "2016 GiB"
    assert host.memory_check(MEMINFO, Reading(str(100 * GIB))).value == "2016 GiB, 100 for this job"
    low = Reading((MEMINFO.text or "").replace("2000000000", "20000"))
    assert host.memory_check(low, Reading(None)).verdict == "warn"
    assert host.memory_check(Reading(None, "gone"), Reading(None)).verdict == "skip"


@pytest.mark.parametrize(
    ("fabric", "limit", "verdict"),
    [
        ("efa", -1, "ok"),
        ("efa", 65536, "fail"),
        ("ethernet", 65536, "ok"),
        (None, 65536, "skip"),
        ("roce", 2 * GIB, "ok"),
    ],
)
def test_memlock(fabric: str | None, limit: int, verdict: str) -> None:
    assert host.memlock_check(limit, 3 * GIB, Expected(fabric=fabric)).verdict == verdict


def test_limits_of_a_node() -> None:
    assert host.files_check(65536, 65536).verdict == "ok"
    assert host.files_check(256, 4096).verdict == "warn"
    assert host.shm_check(64 * 1024**2, 64 * 1024**2).verdict == "warn"
    assert host.shm_check(GIB * 900, GIB * 900).verdict == "ok"
    assert host.shm_check(None, None, "gone").verdict == "fail"
    assert host.cpus_check(8, 8).verdict == "ok"
    assert host.cpus_check(1, 8).verdict == "warn"


def test_numa(tmp_path: Path) -> None:
    nodes, pci = tmp_path / "node", tmp_path / "pci"
    for number in (0, 1):
        (nodes / f"node{number}").mkdir(parents=True)
    for number, address in enumerate(("0000:19:00.0", "0000:9d:00.0")):
        (pci / address).mkdir(parents=True)
        (pci / address / "numa_node").write_text(f"{number}\n")
    gpus = ["0000:19:00.0", "0000:9d:00.0"]
    assert host.numa_check(nodes, pci, gpus).value == "2 nodes, GPUs on 0, 1"
    (pci / gpus[1] / "numa_node").write_text("-1\n")
    assert host.numa_check(nodes, pci, gpus).verdict == "warn"
    assert host.numa_check(nodes, pci, []).verdict == "skip"
    assert host.numa_check(tmp_path / "none", pci, gpus).verdict == "skip"


def test_scratch(tmp_path: Path) -> None:
    pyxis = Expected(runtime="pyxis", container=True)
    good = disk.Probe("/raid", 900 * GIB, 2000.0)
    assert disk.scratch_check(good, pyxis, True).value == "900 GiB free, 2000 MB/s"
    full = disk.Probe("/raid", error="No space left on device", number=errno.ENOSPC)
    assert disk.scratch_check(full, pyxis, True).value == "full"
    absent = disk.Probe("/raid", error="No such file or directory", number=errno.ENOENT)
    assert disk.scratch_check(absent, pyxis, True).verdict == "skip"
    assert disk.scratch_check(absent, pyxis, False).verdict == "fail"
    assert disk.scratch_check(disk.Probe("/raid", 3 * GIB, 2000.0), pyxis, False).verdict == "warn"
    assert disk.scratch_check(disk.Probe("/raid", 900 * GIB, 20.0), pyxis, False).verdict == "warn"
    tried = disk.probe(tmp_path / "made", 1024**2, make=True)
    assert tried.error is None
    assert not (tmp_path / "made").exists()
    for place in ("no/where", "made"):
        assert disk.probe(tmp_path / place, 1).number == errno.ENOENT
    assert disk.scratch_of(Expected(scratch="/raid/$USER"), {"USER": "ann"}) == "/raid/ann"
    assert disk.scratch_of(Expected(), {"TMPDIR": "/x"}) == "/x"


def test_mounts(tmp_path: Path) -> None:
    here, gone = str(tmp_path), str(tmp_path / "gone")
    assert disk.directories_check((here,), (), False).verdict == "ok"
    assert gone in disk.directories_check((here, gone), (gone,), False).reason
    assert disk.directories_check((), (), False).verdict == "skip"


def test_directories_that_are_not_shared(tmp_path: Path) -> None:
    others = [Peer(node, f"n{node}", (str(tmp_path),)) for node in (1, 2)]
    marks = shared_directories.Marks("run", 1)
    assert marks.write([str(tmp_path), str(tmp_path / "none")]) == (str(tmp_path),)
    now = iter(range(100))
    seen = shared_directories.wait_for_marks(
        str(tmp_path), "run", others, 3.0, clock=lambda: float(next(now)), sleep=lambda _: None
    )
    assert seen.absent == ("n2",)
    marks.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("looked_for", "absent", "verdict"),
    [(1, 0, "ok"), (1, 1, "fail"), (2, 1, "ok"), (2, 2, "fail"), (7, 3, "ok"), (7, 4, "fail"), (0, 0, "skip")],
)
def test_the_minority_is_at_fault(looked_for: int, absent: int, verdict: str) -> None:
    seen = shared_directories.Seen(0.1, looked_for, tuple(f"n{number}" for number in range(absent)))
    assert shared_directories.shared_check({"/fsx": seen}, {}, False).verdict == verdict
    assert shared_directories.shared_check({}, {}, True).verdict == "skip"


def test_a_slow_directory() -> None:
    assert shared_directories.shared_check({"/fsx": shared_directories.Seen(8.0, 3)}, {}, False).verdict == "warn"


def test_figures_against_the_profile() -> None:
    def judged(number: float | None, expected: float | None) -> Check:
        return compute.figure_check("matmul", "TFLOP/s", compute.Measurement(number, "why"), expected, "matmul_tflops")

    assert judged(700.0, 720.0).verdict == "ok"
    assert judged(600.0, 720.0).verdict == "warn"
    assert judged(300.0, 720.0).verdict == "fail"
    assert judged(700.0, None).verdict == "skip"
    assert judged(700.0, None).value == "700 TFLOP/s"
    assert judged(None, 720.0).reason == "why"
    assert abs(compute.bus_gbs(10**9, 8, 0.01) - 175.0) < 1e-9
    assert compute.connectivity_check("gloo", 4, compute.Measurement(4.0), 4).value.endswith(
        "that they reach each other)"
    )
    assert compute.connectivity_check("nccl", 4, compute.Measurement(3.0), 4).verdict == "fail"


def test_the_environment_of_a_task() -> None:
    assert (
        task_environment.started_check(9.0, Expected(runtime="pyxis", container=True)).value
        == "pyxis container after 9.0 s"
    )
    assert task_environment.started_check(900.0, Expected(runtime="bwrap", container=True)).verdict == "warn"
    assert task_environment.started_check(None, Expected()).verdict == "skip"
    assert task_environment.mpi_check({"PMIX_RANK": "0"}, Expected(mpi="pmix_v4")).verdict == "ok"
    assert task_environment.mpi_check({}, Expected(mpi="pmix")).verdict == "fail"
    assert task_environment.mpi_check({}, Expected(mpi="cray_shasta")).verdict == "skip"
    assert task_environment.mpi_check({}, Expected()).verdict == "skip"
    assert task_environment.python_check((3, 9, 1)).verdict == "fail"


def test_what_is_expected_travels_as_json() -> None:
    assert parse('{"device": "cpu", "directories": ["/fsx"]}') == Expected(device="cpu", directories=("/fsx",))
    for text in ("[", "[]", '{"colour": 1}'):
        with pytest.raises(UserError):
            parse(text)


def test_checks_are_what_they_say() -> None:
    check = Check("gpus", "fail", "7 of 8", 7.0, "one is gone", "look")
    assert from_dict(check.to_dict()) == check
    for wrong in (("x", "good"), ("x", "skip"), ("x", "fail", "", None, "reason")):
        with pytest.raises(ValueError, match="x: "):
            Check(*wrong)
    with pytest.raises(ValueError, match="not a check"):
        from_dict({"verdict": "ok"})
