"""The directory of a sweep: `<run root>/<name>/sweep`, beside the runs of its points. It is the sweep's only state."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, OutsideError, RequestError
from launcher.contract.files import JsonLines, read_lines, read_object
from launcher.rundir.locks import locked, sweep_lock_file
from launcher.rundir.run_directory import write_atomically
from launcher.sweep.points import SweepPoint
from launcher.sweep.trials import Trial

SWEEP = "sweep"
_RECORD = "sweep.json"
_WAIT_S = 200.0
"""Longer than sbatch tries, which may hold the lock of a launcher that was killed."""


@dataclass(frozen=True)
class SweepDirectory:
    """A sweep on disk."""

    root: Path
    """The parent of the runs' directories: `<run root>/<name>`."""

    @classmethod
    def at(cls, path: Path) -> "SweepDirectory":
        """Return the sweep in a directory: `<run root>/<name>`, or its `sweep`. Raises RequestError."""
        for root in (path, path.parent):
            if (root / SWEEP / _RECORD).is_file():
                return cls(root.resolve())
        raise RequestError("this is not the directory of a sweep", where=str(path), hint="Such as: runs/NAME")

    @property
    def path(self) -> Path:
        """The directory of what belongs to the whole sweep."""
        return self.root / SWEEP

    @property
    def arrays(self) -> Path:
        """The directory of its job arrays."""
        return self.path / "arrays"

    @property
    def trials_file(self) -> Path:
        """The trials and their results, a JSON object a line."""
        return self.path / "trials.jsonl"

    @property
    def trajectory(self) -> Path:
        """The table of ended trials, as CloudAI writes it."""
        return self.path / "trajectory.csv"

    @property
    def page(self) -> Path:
        """The page of the sweep."""
        return self.path / "page.html"

    def record(self) -> dict[str, Any] | None:
        """Return what the sweep is; None for a directory without one."""
        return read_object(self.path / _RECORD)

    def create(self, fixed: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make the directory with its record, or bring that up to date; return the record.

        Raises DiskError, RequestError where the sweep was made with other `fixed` values: what differs is named.
        """
        known = self.record()
        if known is not None and (differing := [*_differences(known["fixed"], fixed)]):
            raise RequestError(
                f"the sweep in this directory is another one: {'; '.join(differing)}",
                where=str(self.root),
                hint="Choose another name for this one. Axes and points may be added to a sweep.",
            )
        new = {"version": 1, "id": secrets.token_hex(3), "created": round(time.time(), 3)}
        record = {**(known or new), "fixed": {**(known["fixed"] if known else {}), **fixed}, "settings": settings}
        if json.dumps(record) == json.dumps(known):
            return record
        try:
            self.arrays.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DiskError(f"cannot make the sweep: {error.strerror}", where=str(self.path)) from error
        write_atomically(self.path / _RECORD, json.dumps(record, indent=1) + "\n", mode=0o600, exact_mode=True)
        return record

    def lock(self, on_wait: Callable[[], None]) -> AbstractContextManager[int]:
        """Return a context in which this process alone drives the sweep; it yields the lock's descriptor.

        `on_wait` is called once before waiting. Entering raises OutsideError, DiskError.
        """
        busy = OutsideError(
            "another launcher drives this sweep", where=str(self.path), hint="`launcher sweep status` shows how it is."
        )
        return locked(sweep_lock_file(self.root), wait_s=_WAIT_S, busy=busy, on_wait=on_wait)

    def trials(self) -> list[Trial]:
        """Return all trials in order of their numbers. Raises DiskError."""
        try:
            lines = read_lines(self.trials_file)
        except OSError as error:
            raise DiskError(f"cannot read the trials: {error.strerror}", where=str(self.trials_file)) from error
        found = dict[int, Trial]()
        for line in lines:
            number = line.get("number")
            if isinstance(number, int) and (changed := _applied(found.get(number), number, line)) is not None:
                found[number] = changed
        return [found[number] for number in sorted(found)]

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to the trials, all on disk when this returns. Raises DiskError."""
        try:
            file = JsonLines(self.trials_file)
            try:
                pending = [*lines]
                for index, line in enumerate(pending):
                    file.append({"time": round(time.time(), 3), **line}, sync=index == len(pending) - 1)
            finally:
                file.close()
        except OSError as error:
            raise DiskError(f"cannot write the trials: {error.strerror}", where=str(self.trials_file)) from error


def asked(trial: Trial) -> dict[str, Any]:
    """Return the line of a trial that was asked for."""
    line: dict[str, Any] = {"event": "asked", "number": trial.number, "values": trial.point.to_dict()}
    line |= {"repeats": trial.repeats}
    return {**line, "drawn": dict(trial.drawn)} if trial.drawn else line


def stopping(trial: Trial, reason: str) -> dict[str, Any]:
    """Return the line which says that a running trial is about to be stopped, and why."""
    return {"event": "stopping", "number": trial.number, "reason": reason}


def repeated(trial: Trial) -> dict[str, Any]:
    """Return the line of a trial that is asked for again: with further runs, or because it was refused before."""
    return {"event": "repeated", "number": trial.number, "repeats": trial.repeats}


def ended(trial: Trial) -> dict[str, Any]:
    """Return the line of a trial that has ended."""
    return {
        "event": "ended",
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "metrics": dict(trial.metrics),
        "reward": trial.reward,
        "runs": list(trial.runs),
    }


def _applied(trial: Trial | None, number: int, line: Mapping[str, Any]) -> Trial | None:
    """Return the trial after a line of the file; None for a line that says nothing about it."""
    event = line.get("event")
    if trial is None:
        if event != "asked":
            return None
        drawn = SweepPoint.of(line.get("drawn", {})).values
        return Trial(number, SweepPoint.of(line["values"]), drawn, repeats=line.get("repeats", 1))
    if event == "stopping":
        return replace(trial, stopping=True, reason=line.get("reason"))
    if event == "repeated":
        return replace(trial, state="asked", reason=None, reward=None, repeats=line["repeats"])
    if event == "ended":
        return replace(
            trial,
            state=line["state"],
            reason=line.get("reason"),
            metrics=tuple(line.get("metrics", {}).items()),
            reward=line.get("reward"),
            runs=tuple(line.get("runs", ())),
        )
    return None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        if key.startswith("code of ") and not (key in before and key in now):
            continue  # a recipe was added
        if json.dumps(before.get(key), sort_keys=True) != json.dumps(now.get(key), sort_keys=True):
            yield f"{key} was {_shown(before.get(key))} and is {_shown(now.get(key))}"


def _shown(value: object) -> str:
    text = "not given" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
