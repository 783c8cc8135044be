"""Processes of this machine: who started a group of them, for the journal, and which are in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.contract.process import boot_id, group_of, start_ticks_of, stat

if TYPE_CHECKING:
    from launcher.contract.records.journal import StartedBy


def this_launcher(group: int) -> StartedBy:
    """Return who started the process group `group`, so that others can see whether that launcher or the group lives."""
    pid = os.getpid()
    return {
        "pid": pid,
        "start_ticks": start_ticks_of(pid),
        "group": group,
        "group_start_ticks": start_ticks_of(group),
        "boot_id": boot_id(),
        "host": os.uname().nodename,
    }


def group_members(group: int) -> list[int]:
    """Return the pids of a process group, without processes that have ended and wait to be reaped."""
    import psutil  # slow to load, and only code that ends programs asks

    return [pid for pid in psutil.pids() if group_of(pid) == group]


def members_for(path: Path, group: int, first_ticks: int | None) -> list[int]:
    """Return the processes of a group that was started for the run in `path`; none where they are not surely its own.

    `first_ticks` are the start ticks of the group's first process, None where they were not recorded. The kernel gives
    the number of an empty group to another process, but not while a process of the group lives. So a first process
    that lives proves the whole group to be the run's or another one. After its end a process of the group has to carry
    the run's path on its command line.
    """
    if group <= 1 or not _exists(group):
        return []
    now = start_ticks_of(group)
    if first_ticks is not None and now is not None:
        return group_members(group) if now == first_ticks else []
    found = [pid for pid in group_members(group) if first_ticks is None or (start_ticks_of(pid) or 0) >= first_ticks]
    return found if any(os.fsencode(path) in _command_line(pid) for pid in found) else []


def _exists(group: int) -> bool:
    """Return whether a process group has a member, of any user; far cheaper than a look at all processes."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _command_line(pid: int) -> bytes:
    """Return the command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def session_members(session: int) -> list[int]:
    """Return the pids of a session: programs may put those that they start into groups of their own."""
    found = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in found if (fields := stat(pid)) is not None and int(fields[3]) == session]
