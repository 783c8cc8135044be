"""The protocol of what starts the runs of a sweep's points and observes them, and the definition of a sweep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from launcher.config.request import Request
from launcher.sweep.points import Axis, Constraint, Draw, SweepPoint
from launcher.sweep.trials import PointRun, TrialState


@dataclass(frozen=True)
class Observation:
    """How a run of a point is doing."""

    state: TrialState
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured, once it has ended."""
    run_dir: str | None = None
    step: int | None = None
    """The last iteration, while it runs."""
    value: float | None = None
    """The sweep's first metric up to that iteration."""


class Executor(Protocol):
    """Starts the runs of points and observes them. A run is known by the name of its sample.

    All that it knows is on disk: after an interruption a new one, made in the same way, answers as the old one would.
    """

    def refuse(self, points: Sequence[SweepPoint], /) -> Mapping[str, str]:
        """Return, by the point's name, why a point cannot be run; points that can are left out. Starts nothing."""
        ...

    def start(self, samples: Sequence[PointRun], /) -> Mapping[str, str]:
        """Start what was not started before, each sample once, as many as Slurm takes.

        Return, by the point's name, why points cannot be run. Raises OutsideError where it is not known what was
        started; calling it again makes good what is missing.
        """
        ...

    def observe(self, samples: Sequence[PointRun], /) -> Mapping[str, Observation]:
        """Return how the samples are doing, by their name; those that were never started are left out."""
        ...

    def stop(self, sample: PointRun, /) -> None:
        """End the run of a sample."""
        ...


@dataclass(frozen=True)
class Definition:
    """A sweep: what varies, and how a point becomes a request."""

    name: str
    """The name of its runs; their directories are `<run root>/<name>/<point>-<repeat>`."""
    axes: tuple[Axis, ...]
    request_of: Callable[[SweepPoint], Request]
    """Return the request of a point. Raises RequestError where the values cannot be stated."""
    constraints: tuple[tuple[str, Constraint], ...] = ()
    """Each with its name, in the order of asking."""
    draws: tuple[Draw, ...] = ()
    metrics: tuple[str, ...] = ("step_time_s",)
    reward: str = "inverse"
    failure_reward: float | None = None
    """Of a run that failed; None: such a trial has no reward."""
    refused_reward: float | None = None
    seed: int = 0
