"""trajectory.csv: one row for each trial that has ended, in the columns of CloudAI's file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from launcher.rundir.run_directory import write_atomically
from launcher.sweep.points import Value
from launcher.sweep.trials import Trial

COLUMNS = ("step", "action", "reward", "observation")


def trajectory_text(trials: Sequence[Trial], metrics: Sequence[str]) -> str:
    """Return the table: step, action (a dictionary as Python writes it), reward, observation (a list likewise).

    Trials that were refused have a number and no row; of one without a reward or a measurement the cell is empty.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for trial in trials:
        if not trial.ended or trial.state == "refused":
            continue
        action = {key: _plain(value) for key, value in trial.point.values}
        measured = dict(trial.metrics)
        observation = [measured[name] for name in metrics if name in measured]
        table.writerow((trial.number, action, "" if trial.reward is None else trial.reward, observation))
    return text.getvalue()


def drawn_text(trials: Sequence[Trial]) -> str:
    """Return the table of what the environment has drawn: step, and `env_params.KEY` for each key."""
    shown = [trial for trial in trials if trial.ended and trial.state != "refused"]
    keys = list(dict.fromkeys(key for trial in shown for key, _ in trial.drawn))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("step", *(f"env_params.{key}" for key in keys)))
    for trial in shown:
        drawn = dict(trial.drawn)
        table.writerow((trial.number, *(_plain(drawn.get(key)) for key in keys)))
    return text.getvalue()


def write_trajectory(path: Path, trials: Sequence[Trial], metrics: Sequence[str]) -> None:
    """Write trajectory.csv, and metadata.csv beside it where values were drawn. Raises DiskError."""
    write_atomically(path, trajectory_text(trials, metrics))
    if any(trial.drawn for trial in trials):
        write_atomically(path.with_name("metadata.csv"), drawn_text(trials))


def _plain(value: Value) -> object:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
