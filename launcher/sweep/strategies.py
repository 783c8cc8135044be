"""Strategies that need no other package: every combination, a list of points, random points."""

import random
from collections.abc import Iterator, Sequence

from launcher._util.errors import ConfigError
from launcher.sweep.points import Axis, Range, SweepPoint, Value, grid
from launcher.sweep.trials import Trial

_TRIES = 10_000
"""Draws in a row that repeat earlier points, after which a random strategy ends: all points were probably drawn."""


class Listed:
    """Asks for given points in order, each once."""

    def __init__(self, points: Iterator[SweepPoint] | Sequence[SweepPoint]) -> None:
        self._points = iter(points)
        self._asked = set[str]()
        self._next: SweepPoint | None = None
        self._advance()

    def ask(self, count: int) -> list[SweepPoint]:
        """Return the next points."""
        found = list[SweepPoint]()
        while self._next is not None and len(found) < count:
            found.append(self._next)
            self._asked.add(self._next.name)
            self._advance()
        return found

    def tell(self, _trial: Trial) -> None:
        """Take a result; it changes nothing."""

    def restore(self, trial: Trial) -> None:
        """Leave out a point that an earlier process has asked for."""
        self._asked.add(trial.point.name)
        if self._next is not None and self._next.name in self._asked:
            self._advance()

    def should_stop(self, _trial: Trial, _step: int, _value: float) -> bool:
        """Stop nothing."""
        return False

    @property
    def exhausted(self) -> bool:
        """Return whether all points were asked for."""
        return self._next is None

    def _advance(self) -> None:
        self._next = next((point for point in self._points if point.name not in self._asked), None)


def grid_strategy(axes: Sequence[Axis]) -> Listed:
    """Return the strategy that asks for every combination. Raises ConfigError for an axis that is a range."""
    return Listed(grid(axes))


def random_strategy(axes: Sequence[Axis], trials: int, seed: int) -> Listed:
    """Return the strategy that asks for so many different points at random: the same ones for the same seed.

    It asks for fewer where there are no more different points.
    """
    return Listed(_random_points(axes, trials, seed))


def draw_point(axes: Sequence[Axis], generator: random.Random) -> SweepPoint:
    """Return a point drawn from all axes."""
    return SweepPoint(tuple((axis.key, _draw(axis, generator)) for axis in axes))


def _draw(axis: Axis, generator: random.Random) -> Value:
    if isinstance(axis.values, Range):
        return axis.values.at(generator.random())
    return generator.choice(axis.values)


def _random_points(axes: Sequence[Axis], trials: int, seed: int) -> Iterator[SweepPoint]:
    if not axes:
        raise ConfigError("the sweep has no axes to draw from")
    generator = random.Random(f"{seed}:points")  # noqa: S311 - reproducible, not secret
    seen = set[str]()
    for _ in range(trials):
        for _ in range(_TRIES):
            point = draw_point(axes, generator)
            if point.name not in seen:
                break
        else:
            return
        seen.add(point.name)
        yield point
