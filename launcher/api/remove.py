"""Removing runs that are over: what is there, what would go, and what went."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, LauncherError, RequestError
from launcher._util.processes import members_for
from launcher._util.shell import LocalShell, Shell
from launcher._util.user_paths import exists
from launcher.api.locate import find_run, find_run_root
from launcher.contract import checkpoints, files
from launcher.rundir import RunDirectory, removal
from launcher.rundir.finding import iterate_runs
from launcher.rundir.locks import is_locked, submit_lock, sweep_lock_file
from launcher.rundir.registry import known_roots
from launcher.slurm.queue import State
from launcher.watch.status import Phase, RunStatus, status_of

_LOCK_WAIT_S = 2.0


@dataclass(frozen=True)
class RemovableRun:
    """A run that was asked for."""

    run: RunDirectory
    status: RunStatus
    size: removal.RunSize | None
    """None where it cannot be measured; then the run stays."""
    keep: str = ""
    """Why it stays; empty where it goes."""
    removed: bool = False

    @property
    def name(self) -> str:
        """Return `NAME/RUN_ID`."""
        return f"{self.run.path.parent.name}/{self.run.path.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return {
            "run_dir": str(self.run.path),
            "phase": self.status.phase.value,
            "ended": ended_at(self.status),
            "bytes": self.size.total if self.size else None,
            "checkpoint_bytes": self.size.checkpoints if self.size else None,
            "files": self.size.files if self.size else None,
            "keep": self.keep or None,
            "removed": self.removed,
        }


@dataclass(frozen=True)
class Removal:
    """All runs that were looked at."""

    runs: tuple[RemovableRun, ...]
    of_others: int = 0
    """Runs of other users, which were left out."""
    errors: tuple[LauncherError, ...] = ()

    @property
    def going(self) -> tuple[RemovableRun, ...]:
        """Return the runs that go."""
        return tuple(one for one in self.runs if not one.keep)

    @property
    def removed(self) -> tuple[RemovableRun, ...]:
        """Return the runs that went."""
        return tuple(one for one in self.runs if one.removed)

    @property
    def staying(self) -> tuple[RemovableRun, ...]:
        """Return the runs that stay for a reason of their own; one that is gone already is not among them."""
        return tuple(one for one in self.runs if one.keep and exists(one.run.path))


@dataclass(frozen=True)
class Allowed:
    """What may go although runs that have it stay by default."""

    checkpoints: bool = False
    lost: bool = False
    """Runs whose end nothing has recorded."""


NOTHING_MORE = Allowed()

Confirm = Callable[[Removal], bool]
"""Called with what would go; returns whether to remove it."""


def remove_runs(
    names: Sequence[str],
    *,
    run_root: str | None = None,
    allowed: Allowed = NOTHING_MORE,
    confirm: Confirm | None = None,
) -> Removal:
    """Remove the named runs if `confirm` agrees; None removes nothing.

    A run stays while it is live, or where it is not known whether it is, and while another run that goes on loads from
    its checkpoints. Raises RequestError for a name that fits no run, and for a run of another user.
    """
    found = list(dict.fromkeys(find_run(name, run_root) for name in names))
    for run in found:
        removal.require_own(run)
    return _remove(found, LocalShell(), allowed, confirm)


def remove_old_runs(
    older_than_s: float,
    *,
    run_root: str | None = None,
    everywhere: bool = False,
    states: Sequence[str] = (),
    allowed: Allowed = NOTHING_MORE,
    confirm: Confirm | None = None,
    clock: Callable[[], float] = time.time,
) -> Removal:
    """Remove the runs that ended more than `older_than_s` seconds ago, as `remove_runs` does.

    Those of the run root here, or `everywhere` of all that this user has used; with `states` only those in these
    phases. Runs of a sweep that goes on stay. Runs of other users are counted and left out.
    """
    roots = [find_run_root(run_root)]
    if everywhere and run_root is None:
        roots = list(dict.fromkeys([*roots, *known_roots(os.environ)]))
    all_runs = list(iterate_runs(roots))
    own = [run for run in all_runs if _is_own(run)]
    statuses, _ = status_of(own, LocalShell()) if own else ([], None)
    begin = clock() - older_than_s
    old = [
        run
        for run, status in zip(own, statuses, strict=True)
        if (not states or status.phase.value in states) and _ended_before(status, begin)
    ]
    for directory in dict.fromkeys(run.path.parent for run in own):
        removal.sweep(directory)
    return replace(_remove(old, LocalShell(), allowed, confirm, sweeps=True), of_others=len(all_runs) - len(own))


def ended_at(status: RunStatus) -> float | None:
    """Return when a run that is over ended, in seconds since the epoch; None for one that is not, or is unknown."""
    if not status.phase.over:
        return None
    result: Mapping[str, Any] = status.run_state.result or {}
    ended = result.get("ended")
    if isinstance(ended, int | float):
        return float(ended)
    # Without a verdict: the last that the launcher or its job wrote.
    run = RunDirectory(status.run_state.path)
    written = [path for path in (run.journal_file, run.plan_file, run.attempts_directory) if exists(path)]
    return max((path.stat().st_mtime for path in written), default=None)


def _ended_before(status: RunStatus, begin: float) -> bool:
    ended = ended_at(status)
    return ended is not None and ended < begin


def _is_own(run: RunDirectory) -> bool:
    """Return whether this user may remove the run; not where its directory cannot be looked at."""
    try:
        removal.require_own(run)
    except (RequestError, OSError):
        return False
    return True


def _remove(
    runs: Sequence[RunDirectory], shell: Shell, allowed: Allowed, confirm: Confirm | None, *, sweeps: bool = False
) -> Removal:
    needed = _needed(runs, shell, allowed, sweeps)
    planned = Removal(tuple(_look(runs, shell, allowed, needed)))
    if confirm is None or not planned.going or not confirm(planned):
        return planned
    needed = _needed([one.run for one in planned.going], shell, allowed, sweeps)
    done, errors = list[RemovableRun](), list[LauncherError]()
    for one in planned.runs:
        if one.keep:
            done.append(one)
            continue
        try:
            done.append(_remove_one(one, shell, allowed, needed))
        except LauncherError as error:
            errors.append(error)
            done.append(replace(one, keep=error.message))
    return Removal(tuple(done), errors=tuple(errors))


def _remove_one(one: RemovableRun, shell: Shell, allowed: Allowed, needed: Mapping[Path, str]) -> RemovableRun:
    """Look again while no launcher can start an attempt of the run, and remove it."""
    removal.sweep(one.run.path.parent)
    if not exists(one.run.path):
        return replace(one, keep="it is gone already")
    with submit_lock(one.run, wait_s=_LOCK_WAIT_S):
        (now,) = _look([one.run], shell, allowed, needed)
        if now.keep:
            return now
        removal.require_own(one.run)
        return replace(now, removed=removal.remove_run(one.run))


def _look(
    runs: Sequence[RunDirectory], shell: Shell, allowed: Allowed, needed: Mapping[Path, str]
) -> list[RemovableRun]:
    statuses = status_of(runs, shell)[0] if runs else []
    found = []
    for run, status in zip(runs, statuses, strict=True):
        keep, size = _reason(run, status, allowed) or needed.get(run.path, ""), None
        try:
            size = removal.size_of(run)
        except DiskError as error:  # that of one run, which stays, holds up no other
            keep = keep or f"{error.where} {error.message}"
        found.append(RemovableRun(run, status, size, keep))
    return found


def _reason(run: RunDirectory, status: RunStatus, allowed: Allowed) -> str:
    """Return why a run stays; empty where it can go. Nothing acts on a copy of a run of another machine."""
    if run.pulled_from is not None:
        return _checkpoints_reason(run, allowed)
    if status.phase is Phase.UNKNOWN:
        return f"it is unknown whether it goes on: {status.detail}"
    if status.phase is Phase.LOST and not allowed.lost:
        return "nothing recorded its end: --lost removes it all the same"
    start = status.run_state.start
    here = start is not None and start.host == socket.gethostname()
    if (
        start is not None
        and here
        and start.group is not None
        and members_for(run.path, start.group, start.group_start_ticks)
    ):
        return "processes of it are alive on this machine"
    if not status.phase.over:
        return f"it is {status.phase.value}"
    state = State(status.job_state) if status.job_state is not None and status.run_state.own_job else None
    if state is State.UNKNOWN:
        return f"it is unknown whether its job {status.job} goes on"
    if state is not None and not state.terminal:
        # After the verdict a job cleans up, announces the end, and may queue itself again.
        return f"its job {status.job} is {state.value.lower()}"
    return _checkpoints_reason(run, allowed)


def _checkpoints_reason(run: RunDirectory, allowed: Allowed) -> str:
    if not allowed.checkpoints and _has_checkpoints(run):
        return "it has checkpoints: --with-checkpoints removes them too"
    return ""


def _has_checkpoints(run: RunDirectory) -> bool:
    """Return whether a run has checkpoints; also where that cannot be seen."""
    try:
        return any(checkpoints.iterations(run.checkpoints))
    except OSError:
        return True


def _needed(runs: Sequence[RunDirectory], shell: Shell, allowed: Allowed, sweeps: bool) -> dict[Path, str]:
    """Return why runs stay for the sake of others, by their directories; with `sweeps` also for that of their sweeps.

    Raises DiskError.
    """
    found = _loaded_from(runs, shell, allowed) if allowed.checkpoints else {}
    for directory in dict.fromkeys(run.path.parent for run in runs) if sweeps else ():
        if _sweep_goes_on(directory, shell):
            found |= {run.path: "its sweep goes on" for run in runs if run.path.parent == directory}
    return found


def _sweep_goes_on(directory: Path, shell: Shell) -> bool:
    """Return whether the runs in the directory of a name are those of a sweep that is driven, or has a run left."""
    lock = sweep_lock_file(directory)
    if not exists(lock.parent):
        return False
    runs = list(iterate_runs([directory.parent], name=directory.name))
    return is_locked(lock) or not all(status.phase.over for status in status_of(runs, shell)[0])


def _loaded_from(runs: Sequence[RunDirectory], shell: Shell, allowed: Allowed) -> dict[Path, str]:
    """Return which of these runs have checkpoints and are named in the request of another one that goes on."""
    targets = {run.path for run in runs if _has_checkpoints(run)}
    if not targets:
        return {}
    loading: dict[RunDirectory, set[Path]] = {}
    for other in iterate_runs([*(run.path.parent.parent for run in runs), *known_roots(os.environ)]):
        named = {place for path in _named_paths(other) for place in (path, *path.parents)}
        if used := targets & named - {other.path}:
            loading[other] = used
    found: dict[Path, str] = {}
    for (other, used), status in zip(loading.items(), status_of(list(loading), shell)[0], strict=True):
        if not status.phase.over or (status.phase is Phase.LOST and not allowed.lost):
            name = f"{other.path.parent.name}/{other.path.name}"
            found |= dict.fromkeys(used, f"{name}, which is {status.phase.value}, names paths in it")
    return found


def _named_paths(run: RunDirectory) -> set[Path]:
    """Return the paths that the arguments and overrides of a run name, without links."""
    request = files.read_object(run.argv_file) or {}
    found = set()
    for text in _strings([request.get("arguments"), request.get("overrides")]):
        if "/" in text:
            try:
                found.add(Path(os.path.realpath(run.path / text)))
            except (OSError, ValueError):
                continue  # not a path
    return found


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
