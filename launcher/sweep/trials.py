"""Trials of a sweep, and the protocol of strategies, which choose points and learn results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from launcher.sweep.points import SweepPoint, Value

TrialState = Literal["asked", "refused", "queued", "running", "finished", "failed", "pruned", "cancelled", "unknown"]
"""`refused`: a constraint or the preflight says that it cannot be run, and nothing was submitted. `pruned`: stopped
early because it was bad. `unknown`: Slurm does not answer, which is not an end."""

ENDED: frozenset[TrialState] = frozenset({"refused", "finished", "failed", "pruned", "cancelled"})


@dataclass(frozen=True)
class PointRun:
    """One run of a point: repeats of a point are equal runs, counted from 0."""

    point: SweepPoint
    """With the drawn values (`Trial.content`)."""
    repeat: int = 0

    @property
    def name(self) -> str:
        """Return the name of the run among those of the sweep."""
        return f"{self.point.name}-{self.repeat}"


@dataclass(frozen=True)
class Trial:
    """One point that a strategy has asked for, and its result."""

    number: int
    """Counts from 1 in the order of asking; a refused trial has a number, too."""
    point: SweepPoint
    drawn: tuple[tuple[str, Value], ...] = ()
    """What the environment has drawn for it (`points.Draw`)."""
    state: TrialState = "asked"
    reason: str | None = None
    """Why it was refused, failed, or was stopped, in words."""
    metrics: tuple[tuple[str, float], ...] = ()
    """What was measured, by the metric's name; empty where nothing was."""
    reward: float | None = None
    """The larger the better; None before its end. A failure has the reward that the sweep gives to failures."""
    runs: tuple[str, ...] = ()
    """The run directories that the values come from."""
    repeats: int = 1
    """How many runs its point is to have."""
    stopping: bool = False
    """Whether it was decided to stop it early."""

    @property
    def content(self) -> SweepPoint:
        """Return all values that the run has: the strategy's and those that were drawn."""
        return SweepPoint((*self.point.values, *self.drawn)) if self.drawn else self.point

    @property
    def samples(self) -> tuple[PointRun, ...]:
        """Return the runs that the point is to have."""
        return tuple(PointRun(self.content, repeat) for repeat in range(self.repeats))

    @property
    def ended(self) -> bool:
        """Return whether nothing more will come."""
        return self.state in ENDED


class Strategy(Protocol):
    """Chooses points. The driver calls it from one thread, and numbers the trials itself.

    A strategy is a function of its settings and of the results: after an interruption a new one is made, given
    all earlier trials by `ask` replays and `tell`, and goes on in the same way.
    """

    def ask(self, count: int) -> Sequence[SweepPoint]:
        """Return up to `count` further points. None are left, or it waits for results, where it returns fewer."""
        ...

    def tell(self, trial: Trial, /) -> None:
        """Take in the result of a trial that has ended."""
        ...

    def restore(self, trial: Trial, /) -> None:
        """Take in a trial of an earlier process, in order of the numbers: it was asked for, and has perhaps ended."""
        ...

    def should_stop(self, trial: Trial, step: int, value: float, /) -> bool:
        """Return whether a running trial is to be stopped, given the metric after so many steps."""
        ...

    @property
    def exhausted(self) -> bool:
        """Return whether it will not ask for another point, whatever the results are."""
        ...
