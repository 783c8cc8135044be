"""Ending runs, or having them save and stop."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from launcher._util.errors import OutsideError, RequestError
from launcher._util.processes import group_members
from launcher._util.shell import Shell
from launcher.backends.wait import request_stop
from launcher.rundir import RunDirectory
from launcher.slurm import control
from launcher.watch.run_state import Start
from launcher.watch.status import Phase, RunStatus, status_of

GRACE_S = 30.0
"""Between SIGTERM and SIGKILL for ranks on this machine (Slurm's KillWait has the same default)."""


def cancel_run(
    run: RunDirectory,
    shell: Shell,
    *,
    save: bool = False,
    grace_s: float = GRACE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """End a run, or with `save` ask its ranks to save and stop; returns what was done, for people.

    A run that is over is left alone. Raises RequestError where this cannot be done from here, or there is nothing to
    save yet, SlurmError where Slurm refused or was silent.
    """
    status = status_of([run], shell)[0][0]
    start = status.run_state.start
    if status.phase.over or start is None:
        return f"it is over already: {status.phase.value}"
    if save:
        return _ask_to_stop(run, status)
    if start.how == "launched":
        return _end_here(run, start, grace_s, sleep)
    if status.job is None:
        raise OutsideError(
            "the run's job is not known", where=str(run.path), hint="Slurm does not answer; try again when it does."
        )
    run.journal.write("cancelled", job=status.job)
    control.cancel([status.job], shell)
    return f"job {status.job} is cancelled"


def _ask_to_stop(run: RunDirectory, status: RunStatus) -> str:
    if status.phase is Phase.QUEUED or status.run_state.attempt is None:
        raise RequestError(
            "the run has not begun, so there is nothing to save",
            where=str(run.path),
            hint="Without --save it is taken out of the queue.",
        )
    try:
        request_stop(run, "launcher cancel --save")
    except OSError as error:
        raise OutsideError(f"cannot ask the ranks to stop: {error.strerror}", where=str(run.path)) from error
    return "its ranks save and stop after this iteration"


def _end_here(run: RunDirectory, start: Start, grace_s: float, sleep: Callable[[float], None]) -> str:
    if start.host != socket.gethostname():
        raise RequestError(
            f"the run was started on {start.host}, and its processes are there",
            where=str(run.path),
            hint=f"Call `launcher cancel` on {start.host}; or `--save`, which works from everywhere.",
        )
    group = start.group
    if group is None or not members(group, run.path):
        return "none of its processes is left"
    run.journal.write("cancelled", group=group)
    _signal(group, signal.SIGTERM)
    waited = 0.0
    while members(group, run.path) and waited < grace_s:
        sleep(0.1)
        waited += 0.1
    if members(group, run.path):
        _signal(group, signal.SIGKILL)
        return f"its processes were killed: they had not ended {grace_s:g} s after they were asked to"
    return "its processes have ended"


def members(group: int, run_dir: Path) -> list[int]:
    """Processes of a group that execute this run: the number of a group is used again once it is empty."""
    found = group_members(group)
    return found if any(os.fsencode(run_dir) in _command_line(pid) for pid in found) else []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise RequestError("the run belongs to somebody else", hint="Only its owner or root can end it.") from error
