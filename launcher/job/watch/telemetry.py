"""Samples of a node's GPUs and network adapters while its ranks train, taken by a thread of the node's watchdog.

Every few seconds the driver is asked for clocks, power, temperature, memory, errors and the reasons for which clocks
are lowered (nvml.py), and sysfs for what the adapters have moved. What is kept is bounded: for each GPU and adapter
the least, mean and greatest value, and of the node a history of at most HISTORY points, whose spacing doubles when it
is full. The file of a node is written anew about once a minute. Standard library alone.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, cast

from ...contract.paths import AttemptPaths
from ...contract.records.nodes import AdapterTelemetry, GpuTelemetry, NodeTelemetry, TelemetryHistory, TelemetryRange
from .. import gpus
from . import nvml

HISTORY = 240
"""The most points of a node's history."""
WRITE_S = 60.0
BUSY_PERCENT = 50
"""A GPU that is used at least so much is at work: only then its clock says how fast the node is."""

_MEASURED = ("sm_mhz", "memory_mhz", "power_w", "temperature_c", "memory_temperature_c", "memory_bytes")
_ERRORS = (
    *("symbol_error", "link_error_recovery", "link_downed", "port_rcv_errors", "port_xmit_discards"),
    *("local_link_integrity_errors", "excessive_buffer_overrun_errors"),
)
_NET_ERRORS = ("rx_errors", "tx_errors", "rx_dropped", "tx_dropped")
_WORD_BYTES = 4
"""InfiniBand counts data in units of four bytes (port_xmit_data, port_rcv_data)."""


class SampleRange:
    """The least, the mean and the greatest of what was measured."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._least = self._most = 0.0

    def add(self, value: Optional[float]) -> None:
        """Add a value; None counts for nothing."""
        if value is None:
            return
        self._least = value if not self._count else min(self._least, value)
        self._most = value if not self._count else max(self._most, value)
        self._count += 1
        self._sum += value

    def to_dict(self) -> Optional[TelemetryRange]:
        """Return it as plain values; None where nothing was measured."""
        if not self._count:
            return None
        return {"min": self._least, "mean": round(self._sum / self._count, 3), "max": self._most}


class GpuRecord:
    """What is kept of one GPU."""

    def __init__(self, index: int, device: nvml.NvmlDevice) -> None:
        self.index, self.device = index, device
        self._ranges = {name: SampleRange() for name in _MEASURED}
        self._busy_mhz = SampleRange()
        self._samples = self._busy = 0
        self._throttled: dict[str, int] = {}
        self._first_errors: dict[str, int] = {}
        self._errors: dict[str, int] = {}

    def add(self, sample: nvml.GpuSample) -> None:
        """Add a sample."""
        self._samples += 1
        values: Mapping[str, Any] = sample
        for name, found in self._ranges.items():
            found.add(values[name])
        if (sample["utilization_percent"] or 0) >= BUSY_PERCENT:
            self._busy += 1
            self._busy_mhz.add(sample["sm_mhz"])
        for bit, reason in nvml.THROTTLE_REASONS.items():
            if (sample["throttle"] or 0) & bit:
                self._throttled[reason] = self._throttled.get(reason, 0) + 1
        for name in ("corrected", "uncorrected"):
            if values[name] is not None:
                first = self._first_errors.setdefault(name, values[name])
                self._errors[name] = values[name] - first

    def to_dict(self) -> GpuTelemetry:
        """Return it as plain values."""
        found = {name: each.to_dict() for name, each in self._ranges.items()}
        return {
            "index": self.index,
            "uuid": self.device.uuid,
            "address": gpus.sysfs_address(self.device.address),
            "name": self.device.name,
            "samples": self._samples,
            "busy_samples": self._busy,
            "busy_sm_mhz": self._busy_mhz.to_dict(),
            "throttled_samples": dict(self._throttled),
            "corrected_errors": self._errors.get("corrected"),
            "uncorrected_errors": self._errors.get("uncorrected"),
            "sm_mhz": found["sm_mhz"],
            "memory_mhz": found["memory_mhz"],
            "power_w": found["power_w"],
            "temperature_c": found["temperature_c"],
            "memory_temperature_c": found["memory_temperature_c"],
            "memory_bytes": found["memory_bytes"],
        }


class Adapter:
    """A network adapter, by its counters in sysfs."""

    def __init__(self, name: str, sent: Path, received: Path, unit: int, errors: Sequence[Path]) -> None:
        self.name = name
        self._paths, self._unit, self._error_paths = (sent, received), unit, errors
        self._last: Optional[tuple[float, list[int]]] = None
        self._first_errors: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._rates = (SampleRange(), SampleRange())

    def sample(self, now: float) -> Optional[float]:
        """Read the counters; return the bytes per second in both directions since the last sample, None if unknown."""
        counted = [read_number(path) for path in self._paths]
        total: Optional[float] = None
        if self._last is not None and None not in counted and now > self._last[0]:
            total = 0.0
            for at, value in enumerate(counted):
                rate = max(0, (value or 0) - self._last[1][at]) * self._unit / (now - self._last[0])
                self._rates[at].add(round(rate))
                total += rate
        if None not in counted:
            self._last = (now, [value or 0 for value in counted])
        for path in self._error_paths:
            value = read_number(path)
            if value is not None:
                first = self._first_errors.setdefault(path.name, value)
                if value != first:
                    self._errors[path.name] = value - first
        return total

    def to_dict(self) -> AdapterTelemetry:
        """Return it as plain values."""
        return {
            "name": self.name,
            "sent_bytes_per_s": self._rates[0].to_dict(),
            "received_bytes_per_s": self._rates[1].to_dict(),
            "errors": dict(self._errors),
        }


def read_number(path: Path) -> Optional[int]:
    """Return the number in a file of sysfs; None where there is none."""
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None  # a driver need not have every counter


def adapters(sysfs: Path) -> list[Adapter]:
    """Return the InfiniBand, RoCE and EFA ports of this machine, and its network interfaces that have hardware."""
    found = []
    for port in sorted(sysfs.glob("infiniband/*/ports/*")):
        counters, own = port / "counters", port / "hw_counters"
        errors = [counters / name for name in _ERRORS if (counters / name).exists()]
        name = port.parents[1].name if port.name == "1" else f"{port.parents[1].name}:{port.name}"
        if (counters / "port_xmit_data").exists():
            paths = (counters / "port_xmit_data", counters / "port_rcv_data", _WORD_BYTES)
        elif (own / "tx_bytes").exists():  # EFA
            paths = (own / "tx_bytes", own / "rx_bytes", 1)
            errors = [own / "rx_drops"] if (own / "rx_drops").exists() else []
        else:
            continue
        found.append(Adapter(name, *paths, errors))
    for interface in sorted(sysfs.glob("net/*")):
        statistics = interface / "statistics"
        if (interface / "device").exists() and (statistics / "tx_bytes").exists():
            errors = [statistics / name for name in _NET_ERRORS]
            found.append(Adapter(interface.name, statistics / "tx_bytes", statistics / "rx_bytes", 1, errors))
    return found


class NodeHistory:
    """Points of a node in the order of time, at most HISTORY: when it is full, each two become one."""

    _LEAST = ("sm_mhz",)
    _MEANS = ("power_w", "utilization_percent", "network_bytes_per_s")

    def __init__(self) -> None:
        self._points: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []
        self._each = 1

    def add(self, point: dict[str, Any]) -> None:
        """Add a sample."""
        self._pending.append(point)
        if len(self._pending) < self._each:
            return
        self._points.append(self._joined(self._pending))
        self._pending = []
        if len(self._points) >= HISTORY:
            pairs = [self._points[at : at + 2] for at in range(0, len(self._points), 2)]
            self._points = [self._joined(pair) for pair in pairs]
            self._each *= 2

    def _joined(self, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        joined: dict[str, Any] = {"time": points[-1]["time"], "throttle": 0}
        for name in points[0]:
            values = [point[name] for point in points if point[name] is not None]
            if name == "throttle":
                for value in values:
                    joined[name] |= value
            elif name != "time" and not values:
                joined[name] = None
            elif name in self._MEANS:
                joined[name] = round(sum(values) / len(values), 1)
            elif name != "time":
                joined[name] = min(values) if name in self._LEAST else max(values)
        return joined

    def to_dict(self) -> TelemetryHistory:
        """Return it by columns."""
        points = [*self._points, *([self._joined(self._pending)] if self._pending else [])]
        names = points[0] if points else {}
        return cast("TelemetryHistory", {name: [point[name] for point in points] for name in names})


class Sampler:
    """Takes the samples of a node, and writes its file."""

    def __init__(
        self,
        path: Path,
        node: int,
        interval_s: float,
        *,
        library: Callable[[], Any] = nvml.load,
        sysfs: Path = Path("/sys/class"),
        expects_gpus: bool = False,
        wanted: "Optional[Callable[[list[nvml.NvmlDevice]], list[nvml.NvmlDevice]]]" = None,
    ) -> None:
        self._path, self._node, self._interval_s = path, node, interval_s
        self._library, self._sysfs, self._expects_gpus = library, sysfs, expects_gpus
        self._wanted = wanted or (lambda devices: devices)
        self._gpus: list[GpuRecord] = []
        self._adapters: list[Adapter] = []
        self._history = NodeHistory()
        self._why: Optional[str] = None
        self._samples = 0
        self._began = time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin in a thread of its own: a driver that does not answer holds up nothing else."""
        self._thread.start()

    def stop(self, limit_s: float = 2.0) -> None:
        """End the thread after a last writing; it is not waited for longer than `limit_s`."""
        self._over.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        # Nothing that goes wrong here may disturb a training.
        with contextlib.suppress(Exception):
            if not self.find():
                return
            # The end of a step may kill this process before its last writing: a short run is written early.
            wait_s = self._interval_s
            due = time.monotonic() + wait_s
            while not self._over.wait(self._interval_s if self._samples else 0.0):
                self.sample()
                if time.monotonic() >= due:
                    self.write()
                    wait_s = min(WRITE_S, 2 * wait_s)
                    due = time.monotonic() + wait_s
            self.write()

    def find(self) -> bool:
        """Find what there is to sample; return whether anything is, or a reason why not is to be recorded."""
        try:
            devices = self._wanted(nvml.devices(self._library()))
            self._gpus = [GpuRecord(index, device) for index, device in enumerate(devices)]
        except nvml.NvmlError as error:
            self._why = str(error)
        has_fabric = any(self._sysfs.glob("infiniband/*"))
        if self._gpus or has_fabric:
            self._adapters = adapters(self._sysfs)
        return bool(self._gpus or has_fabric or self._expects_gpus)

    def sample(self) -> None:
        """Take a sample of everything."""
        self._samples += 1
        found = []
        for gpu in self._gpus:
            sample = gpu.device.sample()
            gpu.add(sample)
            found.append(sample)
        moved = [adapter.sample(time.monotonic()) for adapter in self._adapters]
        self._history.add(
            {
                "time": round(time.time(), 1),
                "sm_mhz": min((one["sm_mhz"] for one in found if one["sm_mhz"] is not None), default=None),
                "temperature_c": max(
                    (one["temperature_c"] for one in found if one["temperature_c"] is not None), default=None
                ),
                "power_w": _sum([one["power_w"] for one in found]),
                "utilization_percent": _mean([one["utilization_percent"] for one in found]),
                "memory_bytes": max(
                    (one["memory_bytes"] for one in found if one["memory_bytes"] is not None), default=None
                ),
                "throttle": _any([one["throttle"] for one in found]),
                "network_bytes_per_s": None if (rate := _sum(moved)) is None else round(rate),
            }
        )

    def record(self) -> NodeTelemetry:
        """Return what is known of the node."""
        return {
            "version": 1,
            "node": self._node,
            "host": socket.gethostname(),
            "began": self._began,
            "time": time.time(),
            "interval_s": self._interval_s,
            "samples": self._samples,
            "cpu_s": round(time.thread_time(), 4),
            "why": self._why,
            "gpus": [gpu.to_dict() for gpu in self._gpus],
            "adapters": [adapter.to_dict() for adapter in self._adapters],
            "history": self._history.to_dict(),
        }

    def write(self) -> None:
        """Write the file of the node. It is not worth waiting for a disk: without fsync, and a full disk is ignored."""
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with contextlib.suppress(OSError):  # the next one may succeed
            self._path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(self.record(), separators=(",", ":")), encoding="utf-8")
            temporary.replace(self._path)


def _sum(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if known else None


def _mean(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None


def _any(values: Sequence[Optional[int]]) -> int:
    found = 0
    for value in values:
        found |= value or 0
    return found


def of_this_job(devices: "list[nvml.NvmlDevice]", environ: Mapping[str, str], ranks: int) -> "list[nvml.NvmlDevice]":
    """Return the GPUs that the ranks of the node use.

    CUDA_VISIBLE_DEVICES of the node's first task names them where all tasks see the same; where each sees its own, all
    that the job's cgroup shows are taken.
    """
    listed = [
        gpus.Gpu(index, device.uuid, gpus.sysfs_address(device.address), device.name)
        for index, device in enumerate(devices)
    ]
    seen = gpus.visible(listed, environ)
    return [devices[gpu.index] for gpu in seen] if len(seen) >= ranks else devices


def start(
    attempt: AttemptPaths, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Optional[Sampler]:
    """Return a sampler that has begun, for the node of this process; None where the run wants no samples."""
    node, ranks = int(environ["NODE_RANK"]), int(environ["LOCAL_WORLD_SIZE"])
    interval_s = float(options.get("telemetry_s", INTERVAL_S))
    if interval_s <= 0:
        return None
    sampler = Sampler(
        attempt.telemetry_record(node),
        node,
        interval_s,
        expects_gpus=options.get("device") == "gpu",
        wanted=lambda devices: of_this_job(devices, environ, ranks),
    )
    sampler.start()
    return sampler


INTERVAL_S = 10.0
"""Seconds between samples where argv.json says nothing else."""
