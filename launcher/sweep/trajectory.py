"""trajectory.csv: one row for each trial that has ended, in the columns of CloudAI's file."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.rundir.run_directory import write_atomically
from launcher.sweep.points import Value
from launcher.sweep.trials import Trial

COLUMNS = ("step", "action", "reward", "observation")


@dataclass(frozen=True)
class TrajectoryRow:
    """A trial that was run and has ended."""

    step: int
    action: Mapping[str, object]
    reward: float | None
    observation: Sequence[float]
    drawn: Mapping[str, object] = field(default_factory=dict)
    """What the environment has drawn for it."""


def trajectory_text(rows: Sequence[TrajectoryRow]) -> str:
    """Return the table: step, action (a dictionary as Python writes it), reward, observation (a list likewise).

    The cell of a reward that is not known is empty.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        table.writerow((row.step, dict(row.action), "" if row.reward is None else row.reward, list(row.observation)))
    return text.getvalue()


def drawn_text(rows: Sequence[TrajectoryRow]) -> str:
    """Return the table of what the environment has drawn: step, and `env_params.KEY` for each key."""
    keys = list(dict.fromkeys(key for row in rows for key in row.drawn))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("step", *(f"env_params.{key}" for key in keys)))
    for row in rows:
        table.writerow((row.step, *(row.drawn.get(key) for key in keys)))
    return text.getvalue()


def write_trajectory(path: Path, trials: Sequence[Trial], metrics: Sequence[str]) -> None:
    """Write trajectory.csv, and metadata.csv beside it where values were drawn. Raises DiskError.

    Trials that were refused have a number and no row.
    """
    rows = [_row(trial, metrics) for trial in trials if trial.ended and trial.state != "refused"]
    write_atomically(path, trajectory_text(rows))
    if any(trial.drawn for trial in trials):
        write_atomically(path.with_name("metadata.csv"), drawn_text(rows))


def _row(trial: Trial, metrics: Sequence[str]) -> TrajectoryRow:
    measured = dict(trial.metrics)
    return TrajectoryRow(
        trial.number,
        {key: _plain(value) for key, value in trial.point.values},
        trial.reward,
        [measured[name] for name in metrics if name in measured],
        {key: _plain(value) for key, value in trial.drawn},
    )


def _plain(value: Value) -> object:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
