"""The page of sweeps: what their directories hold, as the values that the page shows."""

import time
from collections.abc import Sequence
from pathlib import Path

from launcher._util.user_paths import user_path
from launcher.api.progress import Progress
from launcher.contract.files import read_lines
from launcher.report.sweep_page import PointRow, SweepData, write_sweep_page
from launcher.rundir import RunDirectory
from launcher.sweep.compare import Ranking
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.measure import StepWindow, measure
from launcher.sweep.points import value_text
from launcher.sweep.sweeps import SweepStatus, read_sweep
from launcher.sweep.trials import Trial

_MOST_STEPS = 2000
"""Iterations of a run that the page has: the last ones."""


def report_sweeps(directories: Sequence[str], progress: Progress, *, output: str | None = None) -> Path:
    """Write the page of one or several sweeps; return its path: `output`, else `sweep/page.html` of the first.

    Raises RequestError, DiskError.
    """
    data = list[SweepData]()
    for directory in directories:
        status, comparison = read_sweep(directory, progress)
        data.append(_data(status, comparison))
    first = SweepDirectory.at(Path(data[0].directory))
    path = user_path(output, Path.cwd(), where="--output") if output else first.page
    return write_sweep_page(data, path, now=time.time())


def _data(status: SweepStatus, comparison: Ranking) -> SweepData:
    settings = (SweepDirectory(status.directory).record() or {}).get("settings", {})
    metric, window = settings["metrics"][0], StepWindow(settings["warmup_steps"], settings.get("last_steps"))
    return SweepData(
        name=status.directory.name,
        directory=str(status.directory),
        metric=metric,
        sentence=comparison.sentence,
        rows=tuple(_row(trial, metric, window) for trial in status.trials),
    )


def _row(trial: Trial, metric: str, window: StepWindow) -> PointRow:
    shown = trial.runs if trial.state in ("finished", "running", "failed", "pruned") else ()
    values = [measure(RunDirectory(Path(run)), window).get(metric) for run in shown]
    return PointRow(
        number=trial.number,
        name=trial.content.name,
        values=tuple((key, value_text(value)) for key, value in trial.content.values),
        state=trial.state,
        reason=trial.reason,
        reward=trial.reward,
        metrics=trial.metrics,
        runs=trial.runs,
        measured=tuple(value for value in values if value is not None),
        steps=_steps(RunDirectory(Path(shown[0]))) if shown else (),
    )


def _steps(run: RunDirectory) -> tuple[tuple[int, float], ...]:
    """Return iterations and their times of the newest attempt."""
    attempt = run.latest_attempt()
    lines = read_lines(attempt.metrics)[-_MOST_STEPS:] if attempt else []
    pairs = ((line.get("iteration"), line.get("seconds")) for line in lines)
    return tuple(
        (iteration, float(seconds))
        for iteration, seconds in pairs
        if isinstance(iteration, int) and isinstance(seconds, int | float)
    )
