"""What the nodes of an attempt did, from the samples of their watchdogs: the slowest, the hottest, the throttled."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from launcher.contract import files
from launcher.contract.frozen import dataclass
from launcher.contract.records.nodes import AdapterTelemetry, GpuTelemetry, TelemetryHistory
from launcher.contract.validation import ContractError, conforming
from launcher.rundir import Attempt

HARMFUL = ("hardware slowdown", "software thermal", "hardware thermal", "power brake")
"""Reasons for lower clocks that point at a fault; a GPU at its power limit is at work."""

_SHARE = 0.01
"""A node counts as throttled where a GPU's clocks were lowered in at least so many of its samples."""


class _NodeRecord(TypedDict):
    """What of a node's file is read here."""

    node: int
    host: str
    time: float
    interval_s: float
    samples: int
    why: str | None
    gpus: list[GpuTelemetry]
    adapters: list[AdapterTelemetry]
    history: TelemetryHistory


@dataclass(frozen=True)
class SampledNode:
    """One node, as it was sampled. None stands for what is unknown."""

    node: int
    host: str
    samples: int
    busy_mhz: float | None
    """The mean clock of its slowest GPU while that was at work."""
    slowest_gpu: int | None
    hottest_c: float | None
    hottest_gpu: int | None
    power_w: float | None
    """The mean power of its GPUs together."""
    throttled: tuple[tuple[str, float], ...]
    """Reasons for lower clocks with the share of samples, of the GPU where it was largest."""
    uncorrected: int | None
    """Errors of GPU memory that were not corrected."""
    network_errors: tuple[tuple[str, int], ...]
    why: str | None
    history: TelemetryHistory

    @property
    def harmful(self) -> tuple[tuple[str, float], ...]:
        """Return the reasons that point at a fault."""
        return tuple(one for one in self.throttled if one[0] in HARMFUL and one[1] >= _SHARE)


@dataclass(frozen=True)
class Telemetry:
    """All nodes of an attempt that were sampled, in the order of their numbers."""

    nodes: tuple[SampledNode, ...]

    @property
    def slowest(self) -> SampledNode | None:
        """Return the node with the GPU of the lowest clock at work."""
        known = [(node.busy_mhz, node) for node in self.nodes if node.busy_mhz is not None]
        return min(known, key=lambda pair: pair[0], default=(0.0, None))[1]

    @property
    def median_mhz(self) -> float | None:
        """Return the median of the nodes' clocks at work."""
        known = [node.busy_mhz for node in self.nodes if node.busy_mhz is not None]
        return statistics.median(known) if known else None

    @property
    def hottest(self) -> SampledNode | None:
        """Return the node with the hottest GPU."""
        known = [(node.hottest_c, node) for node in self.nodes if node.hottest_c is not None]
        return max(known, key=lambda pair: pair[0], default=(0.0, None))[1]

    @property
    def throttled(self) -> tuple[SampledNode, ...]:
        """Return the nodes whose clocks were lowered for a reason that points at a fault, the worst first."""
        found = [node for node in self.nodes if node.harmful]
        return tuple(sorted(found, key=lambda node: -max(share for _, share in node.harmful)))

    @property
    def with_errors(self) -> tuple[SampledNode, ...]:
        """Return the nodes with errors of GPU memory that were not corrected, or of their adapters."""
        return tuple(node for node in self.nodes if node.uncorrected or node.network_errors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        slowest, hottest = self.slowest, self.hottest
        return {
            "nodes": len(self.nodes),
            "median_sm_mhz": self.median_mhz,
            "slowest": slowest
            and {"host": slowest.host, "gpu": slowest.slowest_gpu, "sm_mhz": round(slowest.busy_mhz or 0.0, 1)},
            "hottest": hottest
            and {"host": hottest.host, "gpu": hottest.hottest_gpu, "temperature_c": hottest.hottest_c},
            "throttled": [{"host": node.host, "reasons": dict(node.harmful)} for node in self.throttled],
            "errors": [
                {"host": node.host, "uncorrected": node.uncorrected, "network": dict(node.network_errors)}
                for node in self.with_errors
            ],
        }


def read_telemetry(attempt: Attempt) -> Telemetry:
    """Read what the nodes of an attempt have recorded; a damaged file is left out."""
    found = []
    for path in sorted(attempt.telemetry.glob("[0-9]*.json")):
        try:
            record = conforming(files.parse_json(files.read_text(path)), _NodeRecord, unknown_keys=True)
        except (OSError, ValueError, ContractError):
            continue  # it is being replaced, or was left half by a crash: the next reading has it
        found.append(_sampled(record))
    return Telemetry(tuple(found))


def _sampled(record: _NodeRecord) -> SampledNode:
    gpus = record["gpus"]
    clocks = {gpu["index"]: gpu["busy_sm_mhz"]["mean"] for gpu in gpus if gpu["busy_sm_mhz"]}
    heat = {gpu["index"]: gpu["temperature_c"]["max"] for gpu in gpus if gpu["temperature_c"]}
    power = [gpu["power_w"]["mean"] for gpu in gpus if gpu["power_w"]]
    uncorrected = [gpu["uncorrected_errors"] for gpu in gpus if gpu["uncorrected_errors"] is not None]
    slowest, hottest = min(clocks, key=clocks.__getitem__, default=None), max(heat, key=heat.__getitem__, default=None)
    errors = [
        (f"{adapter['name']} {name}", count)
        for adapter in record["adapters"]
        for name, count in adapter["errors"].items()
    ]
    return SampledNode(
        node=record["node"],
        host=record["host"],
        samples=record["samples"],
        busy_mhz=None if slowest is None else clocks[slowest],
        slowest_gpu=slowest,
        hottest_c=None if hottest is None else heat[hottest],
        hottest_gpu=hottest,
        power_w=sum(power) if power else None,
        throttled=_throttled(gpus),
        uncorrected=sum(uncorrected) if uncorrected else None,
        network_errors=tuple(errors),
        why=record["why"],
        history=record["history"],
    )


def _throttled(gpus: Iterable[GpuTelemetry]) -> tuple[tuple[str, float], ...]:
    shares: dict[str, float] = {}
    for gpu in gpus:
        for reason, count in gpu["throttled_samples"].items():
            share = count / max(1, gpu["samples"])
            shares[reason] = max(shares.get(reason, 0.0), share)
    return tuple(sorted(shares.items(), key=lambda pair: -pair[1]))


def sentences(found: Telemetry) -> list[str]:
    """Say which node is the slowest, the hottest and throttled; nothing where nothing was sampled."""
    words = []
    slowest, hottest, median = found.slowest, found.hottest, found.median_mhz
    if slowest is not None and median is not None:
        beside = f", the median of {len(found.nodes)} nodes is {median:.0f}" if len(found.nodes) > 1 else ""
        words.append(f"slowest: {slowest.host} GPU {slowest.slowest_gpu}, {slowest.busy_mhz:.0f} MHz{beside}")
    if hottest is not None:
        words.append(f"hottest: {hottest.host} GPU {hottest.hottest_gpu}, {hottest.hottest_c:.0f} °C")
    words += [f"throttled: {node.host}, {shares(node.harmful)}" for node in found.throttled[:1]]
    if len(found.throttled) > 1:
        words[-1] += f", and {len(found.throttled) - 1} more"
    words += [f"errors: {node.host}, {errors_of(node)}" for node in found.with_errors[:1]]
    return words


def shares(reasons: Sequence[tuple[str, float]]) -> str:
    """Describe reasons for lower clocks: `hardware thermal in 12% of the samples`."""
    return ", ".join(f"{reason} in {share:.0%} of the samples" for reason, share in reasons)


def errors_of(node: SampledNode) -> str:
    """Describe the errors of a node's GPUs and adapters."""
    words = [f"{node.uncorrected} uncorrected in GPU memory"] if node.uncorrected else []
    return ", ".join([*words, *(f"{name} {count}" for name, count in node.network_errors)])


def columns_of(history: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """Return the points of one column of a history that have a value: time and value."""
    times, values = history.get("time"), history.get(name)
    if not isinstance(times, list) or not isinstance(values, list):
        return []
    return [(at, value) for at, value in zip(times, values, strict=False) if value is not None]
