"""What a run has measured: medians over its iterations, without those at the beginning of each attempt."""

import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.contract.files import LINES_FILE_BYTES, open_regular, parse_lines, read_lines
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class StepWindow:
    """Which iterations of a run count, and how."""

    warmup_steps: int = 5
    """The first ones of each attempt, which are left out."""
    last_steps: int | None = None
    """Of the mean over the last iterations alone, as CloudAI measures; None for the median over all."""


def measure(run: RunDirectory, window: StepWindow) -> dict[str, float]:
    """Return what a run has measured, by the metric's name. Raises OSError.

    The loss is the last one, memory the most. What was not measured is left out.
    """
    lines = [line for attempt in run.attempts() for line in read_lines(attempt.metrics)[window.warmup_steps :]]
    return summarise(lines, window.last_steps)


class RunMeasure:
    """What a run that goes on has measured, as `measure` returns it; of each file only what is new is read."""

    def __init__(self, run: RunDirectory, window: StepWindow) -> None:
        self._run, self._window = run, window
        self._files = dict[Path, _GrowingFile]()

    def __call__(self) -> dict[str, float]:
        """Return what the run has measured so far. Raises OSError."""
        lines = list[Mapping[str, Any]]()
        for attempt in self._run.attempts():
            file = self._files.setdefault(attempt.metrics, _GrowingFile(attempt.metrics))
            lines += file.lines()[self._window.warmup_steps :]
        return summarise(lines, self._window.last_steps)


class _GrowingFile:
    """A file of JSON lines to which others append."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._lines = list[Mapping[str, Any]]()

    def lines(self) -> Sequence[Mapping[str, Any]]:
        """Return all whole lines; the last one counts once its end is there."""
        try:
            with open_regular(self._path) as file:
                found = os.fstat(file.fileno())
                identity = (found.st_dev, found.st_ino)
                if identity != self._identity or found.st_size < self._offset:  # another file, or one that was cut
                    self._identity, self._offset, self._lines = identity, 0, []
                file.seek(self._offset)
                new = file.read(min(found.st_size - self._offset, LINES_FILE_BYTES))
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._lines += parse_lines(whole.decode(errors="replace").splitlines())
        return self._lines


def summarise(lines: Sequence[Mapping[str, Any]], last_steps: int | None = None) -> dict[str, float]:
    """Return what the lines of a metrics file say together.

    Iterations that the optimizer has skipped do not count; with `last_steps` the newest line of each iteration does.
    """
    middle: Callable[[Sequence[float]], float] = statistics.median
    if last_steps is None:
        counted = [line for line in lines if not line.get("skipped")]
    else:
        newest = {line["iteration"]: line for line in lines if isinstance(line.get("iteration"), int)}
        counted, middle = [newest[iteration] for iteration in sorted(newest)][-last_steps:], statistics.fmean
    found = {
        "step_time_s": _reduced(_numbers(counted, "seconds"), middle),
        "tflops_per_gpu": _reduced(_numbers(counted, "tflops_per_gpu"), middle),
        "tokens_per_second": _reduced(_numbers(counted, "tokens_per_second"), middle),
        "loss": _reduced(_numbers(counted, "loss"), lambda values: values[-1]),
        "memory_bytes": _reduced(_numbers(counted, "memory_bytes"), max),
    }
    return {name: value for name, value in found.items() if value is not None}


def _numbers(lines: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    values = (line.get(name) for line in lines)
    return [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]


def _reduced(values: Sequence[float], reduce: Callable[[Sequence[float]], float]) -> float | None:
    return reduce(values) if values else None
