"""Which process is which on this machine: a pid is used again, a pid with its start is not."""

import os
import socket
from typing import Any

from launcher.contract.process import start_ticks, stat


def is_alive(pid: int, started: int | None) -> bool:
    """Whether this very process runs on this machine; `started` is its `start_ticks`, None where nobody noted it."""
    fields = stat(pid)
    if fields is None or fields[0] in "ZX":
        return False
    return started is None or start_ticks(fields) == started


def this_launcher(group: int) -> dict[str, Any]:
    """For the journal: who started the process group `group`, so that others can see whether that launcher lives."""
    pid = os.getpid()
    fields = stat(pid)
    ticks = start_ticks(fields) if fields else None
    return {"pid": pid, "start_ticks": ticks, "group": group, "host": socket.gethostname()}
