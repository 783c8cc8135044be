"""What a run has measured: medians over its iterations, without those at the beginning of each attempt."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from launcher.contract.files import read_lines
from launcher.rundir import RunDirectory


def measure(run: RunDirectory, warmup_steps: int) -> dict[str, float]:
    """Return what a run has measured, by the metric's name. Raises OSError.

    The first `warmup_steps` iterations of each attempt are left out. Times and rates are medians; the loss is the last
    one, memory the most. What was not measured is left out.
    """
    return summarise([line for attempt in run.attempts() for line in read_lines(attempt.metrics)[warmup_steps:]])


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what the lines of a metrics file say together; iterations that the optimizer has skipped do not count."""
    counted = [line for line in lines if not line.get("skipped")]
    found = {
        "step_time_s": _reduced(_numbers(counted, "seconds"), statistics.median),
        "tflops_per_gpu": _reduced(_numbers(counted, "tflops_per_gpu"), statistics.median),
        "tokens_per_second": _reduced(_numbers(counted, "tokens_per_second"), statistics.median),
        "loss": _reduced(_numbers(counted, "loss"), lambda values: values[-1]),
        "memory_bytes": _reduced(_numbers(counted, "memory_bytes"), max),
    }
    return {name: value for name, value in found.items() if value is not None}


def _numbers(lines: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    values = (line.get(name) for line in lines)
    return [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]


def _reduced(values: Sequence[float], reduce: Callable[[Sequence[float]], float]) -> float | None:
    return reduce(values) if values else None
