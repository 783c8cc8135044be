"""The sampler of a node's GPUs and adapters, on a library that answers as recorded, one in C, and a tree of sysfs."""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.paths import AttemptPaths
from launcher.contract.records.nodes import NodeTelemetry
from launcher.contract.validation import conforming
from launcher.job.watch import nvml, telemetry
from tests.job.test_watchdog import Node, wait_until
from tests.job.test_watchdog import node as node_of_watchdog
from tests.support.limits import seconds

GPU = {
    "uuid": "GPU-0",
    "name": "NVIDIA H100 80GB HBM3",
    "address": "00000000:18:00.0",
    "sm_mhz": 1755,
    "memory_mhz": 2619,
    "power_mw": 695_500,
    "temperature": 61,
    "memory_temperature": 74,
    "memory_used": 50 << 30,
    "utilization": 100,
    "throttle": 0x4 | 0x1,
    "corrected": 5,
    "uncorrected": 0,
}
"""What nvidia-smi showed of an H100 in a training."""


class Recorded:
    """A libnvidia-ml that answers what was recorded; calls go through ctypes' own arguments, as with the real one."""

    def __init__(self, *gpus: Mapping[str, Any], missing: tuple[str, ...] = ()) -> None:
        self.gpus, self.missing = gpus, missing

    def __getattr__(self, name: str) -> Any:
        if name in self.missing or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self, f"_{name}")

    def _nvmlInit_v2(self) -> int:  # noqa: N802 - the library's name
        return 0 if self.gpus else 9  # NVML_ERROR_DRIVER_NOT_LOADED

    def _nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        if self.gpus[index.value].get("hidden"):
            return 4  # NVML_ERROR_NO_PERMISSION
        handle._obj.value = index.value + 1
        return 0

    def _of(self, handle: Any, key: str, target: Any) -> int:
        value = self.gpus[handle.value - 1].get(key)
        if value is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        if isinstance(value, str):
            target.value = value.encode()
        else:
            target._obj.value = value
        return 0

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, _size: Any) -> int:  # noqa: N802
        return self._of(handle, "uuid", text)

    def _nvmlDeviceGetName(self, handle: Any, text: Any, _size: Any) -> int:  # noqa: N802
        return self._of(handle, "name", text)

    def _nvmlDeviceGetPciInfo_v3(self, handle: Any, pci: Any) -> int:  # noqa: N802
        pci._obj.bus_id = self.gpus[handle.value - 1]["address"].encode()
        return 0

    def _nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, value: Any) -> int:  # noqa: N802
        return self._of(handle, {1: "sm_mhz", 2: "memory_mhz"}[kind.value], value)

    def _nvmlDeviceGetPowerUsage(self, handle: Any, value: Any) -> int:  # noqa: N802
        return self._of(handle, "power_mw", value)

    def _nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, value: Any) -> int:  # noqa: N802
        return self._of(handle, "temperature", value)

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any, value: Any) -> int:  # noqa: N802
        return self._of(handle, "throttle", value)

    def _nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: Any, _counter: Any, value: Any) -> int:  # noqa: N802
        return self._of(handle, ("corrected", "uncorrected")[kind.value], value)

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.used = self.gpus[handle.value - 1]["memory_used"]
        return 0

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        rates._obj.gpu = self.gpus[handle.value - 1]["utilization"]
        return 0

    def _nvmlDeviceGetFieldValues(self, handle: Any, count: Any, field: Any) -> int:  # noqa: N802
        assert (count.value, field._obj.field_id) == (1, 82)
        field._obj.value = self.gpus[handle.value - 1]["memory_temperature"]
        return 0


def sysfs(root: Path) -> Path:
    """The counters of two InfiniBand ports, an EFA device, and two interfaces of which one has no hardware."""
    for name in ("mlx5_0", "mlx5_1"):
        counters = root / f"infiniband/{name}/ports/1/counters"
        counters.mkdir(parents=True)
        for counter in ("port_xmit_data", "port_rcv_data", "symbol_error", "link_downed"):
            (counters / counter).write_text("1000\n")
    own = root / "infiniband/rdmap0s6/ports/1/hw_counters"
    own.mkdir(parents=True)
    for counter in ("tx_bytes", "rx_bytes", "rx_drops"):
        (own / counter).write_text("7\n")
    for name in ("eth0", "lo"):
        statistics = root / f"net/{name}/statistics"
        statistics.mkdir(parents=True)
        for counter in ("rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped"):
            (statistics / counter).write_text("0\n")
    (root / "net/eth0/device").mkdir()
    return root


def sampler(tmp_path: Path, *gpus: Mapping[str, Any], **more: Any) -> telemetry.Sampler:
    made = telemetry.Sampler(
        tmp_path / "telemetry/0000.json",
        0,
        10.0,
        library=lambda: Recorded(*gpus, missing=more.pop("missing", ())),
        sysfs=tmp_path / "class",
        **more,
    )
    assert made.find() == bool(gpus or (tmp_path / "class").exists() or more.get("expects_gpus"))
    return made


def test_a_sample_has_what_the_driver_says(tmp_path: Path) -> None:
    (device,) = nvml.devices(Recorded(GPU))
    assert (device.uuid, device.name, device.address) == ("GPU-0", "NVIDIA H100 80GB HBM3", "00000000:18:00.0")
    assert device.sample() == {
        "sm_mhz": 1755,
        "memory_mhz": 2619,
        "power_w": 695.5,
        "temperature_c": 61,
        "memory_temperature_c": 74,
        "memory_bytes": 50 << 30,
        "utilization_percent": 100,
        "throttle": 0x4,  # the bit of an idle GPU does not count
        "corrected": 5,
        "uncorrected": 0,
    }


def test_what_a_gpu_does_not_support_is_unknown(tmp_path: Path) -> None:
    gpu = {key: value for key, value in GPU.items() if key not in ("power_mw", "corrected", "uncorrected", "throttle")}
    (device,) = nvml.devices(Recorded(gpu, missing=("nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates")))
    found = device.sample()
    assert [name for name, value in found.items() if value is None] == [
        *("power_w", "memory_temperature_c", "utilization_percent", "throttle", "corrected", "uncorrected"),
    ]
    record = sampler(tmp_path, gpu)
    record.sample()
    assert record.record()["gpus"][0]["power_w"] is None
    assert record.record()["gpus"][0]["uncorrected_errors"] is None


def test_a_gpu_that_the_cgroup_hides_is_not_of_this_job(tmp_path: Path) -> None:
    devices = nvml.devices(Recorded({"hidden": True}, {**GPU, "uuid": "GPU-1"}))
    assert [device.uuid for device in devices] == ["GPU-1"]


def test_gpus_are_those_that_cuda_shows(tmp_path: Path) -> None:
    gpus = [{**GPU, "uuid": f"GPU-{number}", "address": f"00000000:{number}8:00.0"} for number in range(4)]
    devices = nvml.devices(Recorded(*gpus))

    def shown(ranks: int, **environ: str) -> list[str]:
        return [device.uuid[-1] for device in telemetry.of_this_job(devices, environ, ranks)]

    assert shown(2, CUDA_VISIBLE_DEVICES="2,3") == ["2", "3"]
    assert shown(2, CUDA_VISIBLE_DEVICES="2") == ["0", "1", "2", "3"], "each task sees its own one"
    assert shown(4) == ["0", "1", "2", "3"]


def test_ranges_errors_and_throttling(tmp_path: Path) -> None:
    changing = dict(GPU)
    made = sampler(tmp_path, changing)
    for clock, throttle, errors, used in (
        (1980, 0, 5, 100),
        (1400, 0x40, 7, 100),
        (300, 0x1, 7, 0),
        (1600, 0x40, 9, 80),
    ):
        changing |= {"sm_mhz": clock, "throttle": throttle, "corrected": errors, "utilization": used}
        made.sample()
    record = conforming(json.loads(json.dumps(made.record())), NodeTelemetry, unknown_keys=False)
    (gpu,) = record["gpus"]
    assert gpu["sm_mhz"] == {"min": 300, "mean": 1320.0, "max": 1980}
    assert gpu["busy_sm_mhz"] == {"min": 1400, "mean": 1660.0, "max": 1980}, "an idle GPU's clock says nothing"
    assert (gpu["samples"], gpu["busy_samples"]) == (4, 3)
    assert gpu["throttled_samples"] == {"hardware thermal": 2}
    assert (gpu["corrected_errors"], gpu["uncorrected_errors"]) == (4, 0)
    assert record["history"]["sm_mhz"] == [1980, 1400, 300, 1600]
    assert record["history"]["throttle"] == [0, 0x40, 0, 0x40]


def test_adapters_have_rates_and_errors(tmp_path: Path) -> None:
    root = sysfs(tmp_path / "class")
    found = {adapter.name: adapter for adapter in telemetry.adapters(root)}
    assert list(found) == ["mlx5_0", "mlx5_1", "rdmap0s6", "eth0"]
    for adapter in found.values():
        adapter.sample(100.0)
    counters = root / "infiniband/mlx5_0/ports/1/counters"
    (counters / "port_xmit_data").write_text("251000\n")
    (counters / "symbol_error").write_text("1003\n")
    (root / "infiniband/rdmap0s6/ports/1/hw_counters/rx_bytes").write_text("507\n")
    (root / "net/eth0/statistics/rx_bytes").write_text("reset")
    moved = {name: adapter.sample(110.0) for name, adapter in found.items()}
    assert moved == {"mlx5_0": 100_000.0, "mlx5_1": 0.0, "rdmap0s6": 50.0, "eth0": None}
    assert found["mlx5_0"].to_dict() == {
        "name": "mlx5_0",
        "sent_bytes_per_s": {"min": 100_000, "mean": 100_000.0, "max": 100_000},
        "received_bytes_per_s": {"min": 0, "mean": 0.0, "max": 0},
        "errors": {"symbol_error": 3},
    }
    assert found["eth0"].to_dict()["sent_bytes_per_s"] is None, "a counter that cannot be read says nothing"


def test_what_adapters_move_is_unknown_where_no_counter_can_be_read(tmp_path: Path) -> None:
    root = sysfs(tmp_path / "class")
    made = sampler(tmp_path, GPU)
    made.sample()
    for name in ("port_xmit_data", "tx_bytes"):
        for counter in root.rglob(name):
            counter.unlink()
    made.sample()
    assert made.record()["history"]["network_bytes_per_s"] == [None, None]


@pytest.mark.parametrize("samples", [1, 239, 240, 241, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_record_of_a_node_is_bounded(tmp_path: Path, samples: int) -> None:
    sysfs(tmp_path / "class")
    changing = dict(GPU)
    made = sampler(tmp_path, *[changing] * 2)
    for number in range(samples):
        changing |= {"sm_mhz": 1000 if number == samples // 2 else 1755, "temperature": 60 + number % 7}
        made.sample()
    record = made.record()
    assert len(record["history"]["time"]) <= telemetry.HISTORY
    assert min(value for value in record["history"]["sm_mhz"] if value is not None) == 1000, "the dip is still there"
    assert record["samples"] == samples
    made.write()
    written = tmp_path / "telemetry/0000.json"
    assert written.stat().st_size < 64 << 10
    assert json.loads(written.read_text())["history"] == record["history"]
    assert [path.name for path in written.parent.iterdir()] == ["0000.json"]


def test_nothing_is_written_where_there_is_nothing_to_sample(tmp_path: Path) -> None:
    made = telemetry.Sampler(tmp_path / "telemetry/0000.json", 0, 10.0, library=Recorded, sysfs=tmp_path / "class")
    made.start()
    made.stop(seconds(10))
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_gpus_records_why_they_cannot_be_sampled(tmp_path: Path) -> None:
    made = sampler(tmp_path, expects_gpus=True)
    made.write()
    assert json.loads((tmp_path / "telemetry/0000.json").read_text())["why"] == "nvmlInit_v2 has failed with status 9"


def test_a_directory_that_cannot_be_written_disturbs_nothing(tmp_path: Path) -> None:
    made = sampler(tmp_path, GPU)
    (tmp_path / "telemetry").write_text("a file")
    made.sample()
    made.write()


def test_a_driver_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    class Stuck(Recorded):
        def _nvmlDeviceGetPowerUsage(self, *_: Any) -> int:  # noqa: N802
            time.sleep(3600)
            return 0

    made = telemetry.Sampler(tmp_path / "t/0.json", 0, 0.01, library=lambda: Stuck(GPU), sysfs=tmp_path / "class")
    began = time.monotonic()
    made.start()
    time.sleep(0.1)
    made.stop(0.1)
    assert time.monotonic() - began < seconds(5)


STUB = """
#include <stdio.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef union { unsigned u; double d; } value_t;
typedef struct { unsigned id, scope; long long at, latency; int type, status; value_t v; } field_t;
static int one;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = &one; return i != 0; }
int nvmlDeviceGetUUID(void *h, char *t, unsigned n) { snprintf(t, n, "GPU-stub"); return h != &one; }
int nvmlDeviceGetName(void *h, char *t, unsigned n) { snprintf(t, n, "NVIDIA Stub"); return h != &one; }
int nvmlDeviceGetPciInfo_v3(void *h, pci_t *p) { strcpy(p->bus_id, "00000000:18:00.0"); return h != &one; }
int nvmlDeviceGetClockInfo(void *h, int k, unsigned *v) { *v = k == 1 ? 1755 : 2619; return h != &one; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *v) { *v = 695500; return h != &one; }
int nvmlDeviceGetTemperature(void *h, int k, unsigned *v) { *v = 61; return k != 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *v) { *v = 0x40; return h != &one; }
int nvmlDeviceGetTotalEccErrors(void *h, int k, int c, unsigned long long *v) { *v = k ? 0 : 1ULL << 40; return c; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { m->used = 50ULL << 30; return h != &one; }
int nvmlDeviceGetUtilizationRates(void *h, utilization_t *u) { u->gpu = 99; return h != &one; }
int nvmlDeviceGetFieldValues(void *h, int n, field_t *f) { f->v.d = 0; f->v.u = 74; f->status = 0; return n != 1; }
"""
"""A library with NVML's own declarations in C: the structures and arguments of nvml.py have to fit them."""

node = node_of_watchdog


@pytest.mark.skipif(not Path("/usr/bin/gcc").exists(), reason="no C compiler")
def test_the_watchdog_of_a_node_samples_through_a_library_in_c(node: Node, tmp_path: Path) -> None:
    (tmp_path / "stub.c").write_text(STUB)
    library = tmp_path / "lib" / nvml.LIBRARY
    library.parent.mkdir()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "stub.c"], check=True, timeout=seconds(60))
    request = json.loads((node.run / "argv.json").read_text())
    request["options"] |= {"telemetry_s": 0.2, "device": "gpu"}
    (node.run / "argv.json").write_text(json.dumps(request))
    node.environ["LD_LIBRARY_PATH"] = str(library.parent)
    node.start().trains()
    written = AttemptPaths(node.run / "attempts/000").telemetry_record(0)
    wait_until(written.exists)
    (node.run / "over").touch()
    assert node.end() == ""
    record = conforming(json.loads(written.read_text()), NodeTelemetry, unknown_keys=False)
    (gpu,) = record["gpus"]
    assert (gpu["name"], gpu["uuid"], gpu["address"]) == ("NVIDIA Stub", "GPU-stub", "0000:18:00.0")
    assert gpu["throttled_samples"] == {"hardware thermal": gpu["samples"]}
    assert gpu["power_w"] == {"min": 695.5, "mean": 695.5, "max": 695.5}
    assert gpu["memory_temperature_c"] == {"min": 74, "mean": 74.0, "max": 74}
    assert (gpu["corrected_errors"], record["why"]) == (0, None)
    assert record["samples"] >= 2
    assert record["cpu_s"] < 0.05 + 0.01 * record["samples"], "one sample takes less than 10 ms of CPU time"


def test_a_run_that_wants_no_samples_has_none(node: Node) -> None:
    request = json.loads((node.run / "argv.json").read_text())
    request["options"] |= {"telemetry_s": 0, "device": "gpu"}
    (node.run / "argv.json").write_text(json.dumps(request))
    node.start().trains()
    (node.run / "over").touch()
    assert node.end() == ""
    assert not (node.run / "attempts/000/telemetry").exists()
