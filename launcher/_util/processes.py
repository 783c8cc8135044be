"""Processes of this machine: who started a group of them, for the journal, and which are in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launcher.contract.process import group_of, start_ticks_of, stat

if TYPE_CHECKING:
    from launcher.contract.records.journal import StartedBy


def this_launcher(group: int) -> StartedBy:
    """Return who started the process group `group`, so that others can see whether that launcher lives."""
    pid = os.getpid()
    return {"pid": pid, "start_ticks": start_ticks_of(pid), "group": group, "host": os.uname().nodename}


def group_members(group: int) -> list[int]:
    """Return the pids of a process group, without processes that have ended and wait to be reaped."""
    import psutil  # slow to load, and only code that ends programs asks

    return [pid for pid in psutil.pids() if group_of(pid) == group]


def session_members(session: int) -> list[int]:
    """Return the pids of a session: programs may put those that they start into groups of their own."""
    found = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in found if (fields := stat(pid)) is not None and int(fields[3]) == session]
