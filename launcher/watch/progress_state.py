"""The progress of an attempt from its own events: pure functions from lines to a frozen value, and to words."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.contract.files import parse_lines
from launcher.contract.frozen import dataclass, replace

_RECENT = 20
"""Number of iterations over which the time of one is measured."""

SILENT_STEPS = 10
"""After as many iteration times without a sign a run is marked as silent."""

SILENT_AT_LEAST_S = 5.0
"""A sign that is younger than this is never late: writing and reading take time, too."""

_NEXT = {
    "imports": "setting up process groups",
    "process_groups": "building the model",
    "model": "preparing data",
    "checkpoint_loaded": "preparing data",
    "train_start": "in the first iteration",
}
"""The phase that follows each event of the timeline."""


@dataclass(frozen=True)
class AttemptProgress:
    """The progress of an attempt. Durations in seconds, times in seconds since the epoch."""

    iteration: int | None = None
    first_iteration: int | None = None
    train_iters: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    tflops_per_gpu: float | None = None
    tokens_per_second: float | None = None
    recent: tuple[float, ...] = ()
    """Durations of the last iterations."""
    phase: str = "starting the program"
    """The phase before the first iteration, in words."""
    loaded: int | None = None
    """Iteration of the checkpoint that it started from."""
    verified: str | None = None
    """What was verified of that checkpoint: `verified`, `partly verified`, `sizes only` or `unverified`."""
    no_space: int | None = None
    """Iteration whose save could not fit, until a later save has succeeded."""
    saved: int | None = None
    """Iteration of its newest checkpoint."""
    ended: str | None = None
    """The outcome that rank 0 has reported; None while it runs."""
    time: float | None = None
    """Time of the newest line: the last sign of life."""

    @property
    def seconds_per_iteration(self) -> float | None:
        """Return the median of the last iterations; the first, which compiles and allocates, counts only if alone."""
        if not self.recent:
            return None
        import statistics  # here, not at the top: a list of ended runs needs none

        return statistics.median(self.recent)

    @property
    def seconds_left(self) -> float | None:
        """Return the estimated time to the last iteration at the present speed."""
        per_iteration = self.seconds_per_iteration
        if per_iteration is None or self.iteration is None or self.train_iters is None:
            return None
        return max(0, self.train_iters - self.iteration) * per_iteration


def silent_after(state: AttemptProgress) -> float | None:
    """Return after how many seconds without a sign a run counts as silent; None before an iteration was timed."""
    if state.ended is not None or state.seconds_per_iteration is None or state.iteration == state.train_iters:
        return None
    return max(SILENT_STEPS * state.seconds_per_iteration, SILENT_AT_LEAST_S)


def advance(state: AttemptProgress, lines: Iterable[str]) -> AttemptProgress:
    """Return the progress after some lines of metrics.jsonl or timeline.jsonl; other lines are ignored."""
    for line in parse_lines(lines):
        state = _event(state, line) if "event" in line else _iteration(state, line)
    return state


def _iteration(state: AttemptProgress, line: dict[str, Any]) -> AttemptProgress:
    iteration = number(line, "iteration")
    if iteration is None:
        return state
    seconds = number(line, "seconds")
    recent = state.recent if seconds is None else (*state.recent, seconds)[-_RECENT:]
    if len(recent) == 2 and state.first_iteration == state.iteration:
        recent = recent[1:]
    return replace(
        state,
        iteration=int(iteration),
        first_iteration=int(iteration) if state.first_iteration is None else state.first_iteration,
        train_iters=_int(number(line, "train_iters"), state.train_iters),
        loss=number(line, "loss"),
        grad_norm=number(line, "grad_norm"),
        tflops_per_gpu=number(line, "tflops_per_gpu"),
        tokens_per_second=number(line, "tokens_per_second"),
        recent=recent,
        time=number(line, "time") or state.time,
    )


def _event(state: AttemptProgress, line: dict[str, Any]) -> AttemptProgress:
    name = str(line["event"])
    iteration = number(line, "iteration")
    state = replace(state, time=number(line, "time") or state.time, phase=_NEXT.get(name, state.phase))
    if name == "save":
        return replace(state, saved=_int(iteration, state.saved), no_space=None)
    if name == "no_space":
        return replace(state, no_space=_int(iteration, state.no_space))
    if name == "checkpoint_loaded":
        return replace(state, loaded=_int(iteration, state.loaded))
    if name == "checkpoint_verified":
        verification = line.get("verification")
        found = verification.get("state") if isinstance(verification, dict) else None
        return replace(state, loaded=_int(iteration, state.loaded), verified=str(found) if found else None)
    if name == "end":
        return replace(state, ended=str(line.get("outcome") or "ended"))
    return state


def number(line: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number of a line; None if the value is missing or is not one."""
    value = line.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # Python's json reads NaN, Infinity and integers of any length; none of these counts as a number here.
    return value if abs(value) <= sys.float_info.max else None


def _int(value: float | None, other: int | None) -> int | None:
    return other if value is None else int(value)


def numbers(state: AttemptProgress) -> str:
    """Describe loss, time per iteration, TFLOP/s and time left: `loss 3.21 | 0.123 s/iteration | 0:01:10 left`."""
    parts = []
    if state.loss is not None:
        parts.append(f"loss {state.loss:.5g}")
    if state.seconds_per_iteration is not None:
        parts.append(f"{_short(state.seconds_per_iteration)} s/iteration")
    if state.tflops_per_gpu is not None and state.tflops_per_gpu >= 0.05:
        parts.append(f"{state.tflops_per_gpu:.1f} TFLOP/s/GPU")
    if state.seconds_left is not None and state.iteration != state.train_iters:
        parts.append(f"{clock(state.seconds_left)} left")
    return " | ".join(parts)


def describe(state: AttemptProgress) -> str:
    """Describe the progress in one line: `iteration 12/20 | loss ...`, or the phase before the first iteration."""
    if state.iteration is None:
        verified = f", checkpoint {state.verified}" if state.verified else ""
        loaded = f" (continuing after iteration {state.loaded}{verified})" if state.loaded is not None else ""
        return f"{state.phase}{loaded}"
    of = f"/{state.train_iters}" if state.train_iters else ""
    space = "" if state.no_space is None else f"no space for the save of iteration {state.no_space}"
    return " | ".join(part for part in (f"iteration {state.iteration}{of}", space, numbers(state)) if part)


def clock(seconds: float) -> str:
    """Format a duration as `0:01:10` or `2d 03:00:00`; `?` if it is not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}:{minutes:02d}:{rest:02d}" if days else f"{hours}:{minutes:02d}:{rest:02d}"


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.3f}"
