"""What a run has recorded of its iterations, in one form for both frameworks, from records or from printed logs."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.contract.files import read_lines
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Point:
    """One iteration. `next_rate` is the learning rate of the iteration after it: both frameworks print that one."""

    iteration: int
    loss: float | None
    grad_norm: float | None = None
    next_rate: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    tflops: float | None = None
    memory_bytes: float | None = None

    @property
    def printed_loss(self) -> str:
        """Return the loss with the digits that both frameworks print."""
        return "-" if self.loss is None else f"{self.loss:.6E}"

    @property
    def printed_norm(self) -> str:
        """Return the gradient norm with the digits that both frameworks print."""
        return "-" if self.grad_norm is None else f"{self.grad_norm:.3f}"


def history_of(run: RunDirectory) -> tuple[Point, ...]:
    """Return the iterations of a run in order; of one that several attempts have done the last attempt's."""
    found: dict[int, Point] = {}
    for attempt in run.attempts():
        for line in read_lines(attempt.metrics):
            if isinstance(line.get("iteration"), int):
                found[line["iteration"]] = _of_record(line)
    if not found:
        for attempt in run.attempts():
            logs = sorted(attempt.logs.glob("*")) if attempt.logs.is_dir() else []
            for log in logs:
                for point in read_log(log.read_text(encoding="utf-8", errors="replace").splitlines()):
                    found[point.iteration] = point
    return tuple(found[number] for number in sorted(found))


def _of_record(line: dict[str, Any]) -> Point:
    def number(name: str) -> float | None:
        value = line.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    return Point(
        line["iteration"],
        number("loss"),
        number("grad_norm"),
        number("learning_rate"),
        number("seconds"),
        number("tokens_per_second"),
        number("tflops_per_gpu"),
        number("memory_bytes"),
    )


# ---- printed logs

_STAMP = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?P<micro>\.\d+)?\]\s*")
_LINE = re.compile(r"iteration\s+(?P<iteration>\d+)\s*/\s*(?P<of>\d+)\s*\|(?P<rest>.*)")
_PART = re.compile(r"\s*(?P<name>[^|:]+):\s*(?P<value>[^|]+?)\s*(?:\||$)")
_START = re.compile(r"time to initialize megatron|done with setup")
_BRIDGE = re.compile(r"Step Time : |megatron\.bridge")
_MEGATRON_LM = re.compile(r"-{8,} arguments -{8,}")
"""What each prints besides; time stamps with microseconds are Megatron-LM's, from 0.16 on."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)", re.IGNORECASE)


@dataclass
class _Printed:
    iteration: int
    megatron_lm: bool
    values: dict[str, float]


def read_log(lines: Iterable[str], *, as_printed: bool = False) -> list[Point]:
    """Return the iterations that a log of Megatron-LM or Megatron Bridge prints, at a log interval of 1.

    Megatron-LM does not reset its sums after the first iteration of a process: what it prints for the second is the
    mean of both. Here it is the second alone, unless it is wanted `as_printed`. Where the log does not show which of
    the two has written it, the second loss is not known.
    """
    lines = list(lines)
    text = "\n".join(lines)
    is_bridge, is_megatron_lm = bool(_BRIDGE.search(text)), bool(_MEGATRON_LM.search(text))
    found: list[Point] = []
    since_start: list[_Printed] = []
    for item in _printed(lines):
        if item is None or (since_start and item.iteration <= since_start[-1].iteration):
            since_start = []
            if item is None:
                continue
        since_start.append(item)
        values = dict(item.values)
        first_two = since_start[:2]
        may_be_mean = len(since_start) == 2 and first_two[0].iteration + 1 == item.iteration and not as_printed
        if may_be_mean and "lm loss" in values and "lm loss" in first_two[0].values:
            if item.megatron_lm or is_megatron_lm:
                values["lm loss"] = 2 * values["lm loss"] - first_two[0].values["lm loss"]
            elif not is_bridge:
                del values["lm loss"]
        found.append(_of_printed(item.iteration, values))
    return found


def _printed(lines: Iterable[str]) -> Iterator[_Printed | None]:
    """Yield the printed iterations; None where a process begins."""
    for line in lines:
        if _START.search(line):
            yield None
        if (match := _LINE.search(line)) is None:
            continue
        stamp = _STAMP.search(line)
        values = {}
        for part in _PART.finditer(match["rest"]):
            if number := _NUMBER.fullmatch(part["value"].strip()):
                values[part["name"].strip().lower()] = float(number[0])
        yield _Printed(int(match["iteration"]), bool(stamp and stamp["micro"]), values)


def _of_printed(iteration: int, values: dict[str, float]) -> Point:
    milliseconds = values.get("elapsed time per iteration (ms)")
    return Point(
        iteration,
        values.get("lm loss"),
        values.get("grad norm"),
        values.get("learning rate"),
        None if milliseconds is None else milliseconds / 1000,
        None,
        values.get("throughput per gpu (tflop/s/gpu)"),
        None,
    )


def history_at(path: Path) -> tuple[Point, ...]:
    """Return the iterations of a log file."""
    return tuple(read_log(path.read_text(encoding="utf-8", errors="replace").splitlines()))
