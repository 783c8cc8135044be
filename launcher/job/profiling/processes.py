"""A program under nsys, supervised.

Observed with nsys 2022.4: it leaves an agent behind that ignores SIGTERM; and when a signal goes to all processes of a
step it ends at once while the program continues, as a training that saves and stops does.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from launcher.contract.process import stat

_LOOK_S = 0.2
_KILL_AFTER_S = 10.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h

_SAY_PID = 'echo $$ >"$1"; shift; exec "$@"'
"""Script for sh: the program keeps the pid of this shell, across every exec."""


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, so that nsys' agents can be found."""
    with contextlib.suppress(OSError, AttributeError):  # another libc; agents of nsys then end by themselves, or late
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


class Supervised:
    """Running `nsys ... command`; `wait` ends nsys when it takes too long after the program's end."""

    def __init__(self, nsys: Sequence[str], command: Sequence[str], pid_file: Path) -> None:
        self._pid_file = pid_file
        self.ended = False
        """Whether nsys had to be ended."""
        self.started = False
        """Whether the program was started at all."""
        self.seconds_after_program: Optional[float] = None
        """How long nsys still ran after the program."""
        self._process = subprocess.Popen([*nsys, "/bin/sh", "-c", _SAY_PID, "sh", str(pid_file), *command])

    def wait(self, limit_s: float) -> int:
        """Return the exit status (128+N for signal N) once both nsys and the program have ended.

        Nsys gets `limit_s` seconds after the program has ended. The status is that of nsys, which passes on the
        program's, unless nsys ended first.
        """
        program_end: Optional[float] = None
        while self._process.poll() is None:
            now = time.monotonic()
            if program_end is None and self._program_is_over():
                program_end = now
            if program_end is not None and now - program_end > limit_s:
                self._end()
                break
            time.sleep(_LOOK_S)
        if program_end is not None:
            self.seconds_after_program = time.monotonic() - program_end
        status = self._process.wait()
        pid = self._program()
        self.started = pid is not None
        status = self._after_nsys(pid, status) if pid is not None else status
        _send([pid for pid in descendants(os.getpid()) if is_nsys(pid)], signal.SIGKILL)
        with contextlib.suppress(OSError):  # the program may never have started
            self._pid_file.unlink()
        return 128 - status if status < 0 else status

    def _after_nsys(self, pid: int, status: int) -> int:
        """Wait for a program that outlives nsys; return its own status, if it became a child of this process."""
        while not self._program_is_over():
            time.sleep(_LOOK_S)
        # It is not a child of this process: nsys has reaped it, or another one has.
        with contextlib.suppress(ChildProcessError):
            found, how = os.waitpid(pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(how) if found else status
        return status

    def _program(self) -> Optional[int]:
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None  # not started yet

    def _program_is_over(self) -> bool:
        pid = self._program()
        return pid is not None and not _runs(pid)

    def _end(self) -> None:
        self.ended = True
        end_processes([self._process.pid, *descendants(self._process.pid)])


def end_processes(pids: Sequence[int]) -> None:
    """Send SIGTERM, and SIGKILL ten seconds later to those that still run."""
    _send(pids, signal.SIGTERM)
    end = time.monotonic() + _KILL_AFTER_S
    while time.monotonic() < end and any(_runs(pid) for pid in pids):
        time.sleep(0.1)
    _send([pid for pid in pids if _runs(pid)], signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`, as /proc shows them now."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (state := _stat(int(entry.name))) is not None:
            parents[int(entry.name)] = state[1]
    found, last = [], {pid}
    while last:
        last = {child for child, parent in parents.items() if parent in last}
        found += sorted(last)
    return found


def is_nsys(pid: int) -> bool:
    """Return whether it is one of nsys' own processes."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False
    return name.startswith(("nsys", "QdstrmImporter"))


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        # It has ended, and its number may be another user's by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _runs(pid: int) -> bool:
    state = _stat(pid)
    return state is not None and state[0] not in "ZX"


def _stat(pid: int) -> "Optional[tuple[str, int]]":
    """Return state and parent of a process; None if it is gone."""
    fields = stat(pid)
    return (fields[0], int(fields[1])) if fields else None
