"""The section about the time that an attempt spent outside its iterations, from timeline.jsonl."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.contract.files import read_lines
from launcher.report.page import plots
from launcher.report.page.content import Block, Plot, Subject, Table
from launcher.rundir import Attempt
from launcher.watch.progress_state import clock, number

_STARTING = {
    "imports": "imports and configuration",
    "checkpoint_verified": "verifying the checkpoint",
    "process_groups": "process groups",
    "model": "model and optimizer",
    "checkpoint_loaded": "loading the checkpoint",
    "train_start": "data",
    "first_step": "first iteration",
}
_NAMES = {
    **_STARTING,
    "save": "saving checkpoints",
    "no_space": "saves for which there was no space",
    "checksums": "sums of checkpoints, beside the training",
    "evaluation": "evaluation",
    "stop_requested": "asked to save and stop",
    "stop_refused": "refused to save and stop",
    "end": "the whole attempt",
}
_BARS = 20
"""Limit of attempts in the plot; the newest are shown."""

_SHORT_S = 600.0
"""Durations below this are shown with tenths of a second."""

_COLUMNS = ("Attempt", "Phase", "Times", "Seconds", "Longest", "Last ended after")


@dataclass(frozen=True)
class PhaseSummary:
    """All events of one kind in an attempt. Durations in seconds; `ended` counts from the start of the attempt."""

    event: str
    times: int = 0
    seconds: float | None = None
    longest: float | None = None
    ended: float | None = None

    @property
    def name(self) -> str:
        """Return the name of the phase; an unknown event keeps its own name."""
        return _NAMES.get(self.event, self.event)


def phases(subject: Subject) -> Sequence[Block]:
    """Return a plot of how long each attempt took to start, and a table of all phases."""
    found = [(attempt.name, phases_of(read_events(attempt))) for attempt in subject.run.attempts()]
    found = [(name, of_attempt) for name, of_attempt in found if of_attempt]
    if not found:
        return ()
    rows = tuple(_row(name, phase) for name, of_attempt in found for phase in of_attempt)
    table = Table("Phases", _COLUMNS, rows, frozenset(_COLUMNS[2:]))
    bars = _bars(found[-_BARS:])
    return (table,) if bars is None else (bars, table)


def _bars(found: Sequence[tuple[str, Sequence[PhaseSummary]]]) -> Plot | None:
    """Return a plot of the phases up to the end of the first iteration; None if no event states a duration."""
    seconds = {name: {each.event: each.seconds or 0.0 for each in of_attempt} for name, of_attempt in found}
    parts = {
        words: [of_attempt.get(event, 0.0) for of_attempt in seconds.values()]
        for event, words in _STARTING.items()
        if any(of_attempt.get(event) for of_attempt in seconds.values())
    }
    if not parts:
        return None
    names = [f"attempt {name}" for name in seconds]
    totals = (sum(values) for values in zip(*parts.values(), strict=True))
    description = "; ".join(f"{name}: {total:.3g} s" for name, total in zip(names, totals, strict=True))
    return plots.stacked_bars(
        "Until the end of the first iteration", "seconds", names, parts, description=f"{description}."
    )


def read_events(attempt: Attempt) -> list[dict[str, Any]]:
    """Read the events of an attempt, oldest first; incomplete lines are left out."""
    return [line for line in read_lines(attempt.timeline) if "event" in line]


def phases_of(events: Sequence[dict[str, Any]]) -> list[PhaseSummary]:
    """Group events by kind, in the order of their first occurrence."""
    begin: float | None = None
    found: dict[str, PhaseSummary] = {}
    for event in events:
        name, at, seconds = str(event["event"]), number(event, "time"), number(event, "seconds")
        if begin is None and at is not None:
            begin = at - (seconds or 0.0)
        phase = found.get(name, PhaseSummary(name))
        phase = replace(phase, times=phase.times + 1)
        if seconds is not None:
            longest = max(phase.longest or 0.0, seconds)
            phase = replace(phase, seconds=(phase.seconds or 0.0) + seconds, longest=longest)
        if at is not None and begin is not None:
            phase = replace(phase, ended=at - begin)
        found[name] = phase
    return list(found.values())


def _row(attempt: str, phase: PhaseSummary) -> tuple[str, ...]:
    return (
        attempt,
        phase.name,
        str(phase.times),
        "" if phase.seconds is None else f"{phase.seconds:.2f}",
        "" if phase.longest is None or phase.times < 2 else f"{phase.longest:.2f}",
        "" if phase.ended is None else _after(phase.ended),
    )


def _after(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _SHORT_S else clock(seconds)
