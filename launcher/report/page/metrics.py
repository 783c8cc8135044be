"""An attempt's numbers over its iterations, from metrics.jsonl."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.contract.files import parse_lines
from launcher.rundir import Attempt
from launcher.watch.progress_state import number

type Points = tuple[tuple[int, float], ...]
"""Iterations with their values, in the order in which they were written."""


@dataclass(frozen=True)
class Series:
    """One number of one attempt; `strange` are the iterations in which it was there and not finite (NaN)."""

    attempt: str
    points: Points
    strange: tuple[int, ...] = ()


def read_series(attempt: Attempt, names: Sequence[str]) -> dict[str, Series]:
    """These numbers of an attempt. A file that is not there yet has none, a line that was cut short is left out."""
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    strange: dict[str, list[int]] = {name: [] for name in names}
    if attempt.metrics.is_file():
        with attempt.metrics.open(encoding="utf-8", errors="replace") as file:
            for line in parse_lines(file):
                iteration = number(line, "iteration")
                if iteration is None:
                    continue
                for name in names:
                    value = number(line, name)
                    if value is not None:
                        points[name].append((int(iteration), float(value)))
                    elif isinstance(line.get(name), float):
                        strange[name].append(int(iteration))
    return {name: Series(attempt.name, tuple(points[name]), tuple(strange[name])) for name in names}


def thin(points: Points, limit: int) -> Points:
    """At most `limit` points (four or more): the first, the last, and of each stretch the lowest and the highest.

    So that a single spike in a million iterations is still seen.
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
