"""The metrics of an attempt over its iterations, from metrics.jsonl."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.contract.files import open_regular, parse_lines
from launcher.rundir import Attempt
from launcher.watch.progress_state import number

type Points = tuple[tuple[int, float], ...]
"""Pairs of an iteration and a value, in the order of the file."""


@dataclass(frozen=True)
class Series:
    """One metric of one attempt; `not_finite` holds the iterations in which its value was not finite (NaN)."""

    attempt: str
    points: Points
    not_finite: tuple[int, ...] = ()


def read_series(attempt: Attempt, names: Sequence[str]) -> dict[str, Series]:
    """Read metrics of an attempt. A missing file has no values; incomplete lines are left out."""
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    not_finite: dict[str, list[int]] = {name: [] for name in names}
    try:
        opened = open_regular(attempt.metrics)
    except OSError:  # there is none yet, or it is not a file
        opened = io.BytesIO()
    with io.TextIOWrapper(opened, encoding="utf-8", errors="replace") as file:
        for line in parse_lines(file):
            iteration = number(line, "iteration")
            if iteration is None:
                continue
            for name in names:
                value = number(line, name)
                if value is not None:
                    points[name].append((int(iteration), float(value)))
                elif isinstance(line.get(name), float):
                    not_finite[name].append(int(iteration))
    return {name: Series(attempt.name, tuple(points[name]), tuple(not_finite[name])) for name in names}


def downsample(points: Points, limit: int) -> Points:
    """Return at most `limit` points (four or more): the first, the last, and the extremes of each stretch between.

    A single spike in a million iterations stays visible.
    """
    if len(points) <= limit:
        return points
    inner = points[1:-1]
    stretches = limit // 2 - 1
    kept = [points[0]]
    for index in range(stretches):
        part = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        kept += sorted({min(part, key=_value), max(part, key=_value)})
    return (*kept, points[-1])


def _value(point: tuple[int, float]) -> float:
    return point[1]
