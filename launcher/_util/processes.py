"""Who started a group of processes, for the journal."""

import os
import socket
from typing import Any

from launcher.contract.process import start_ticks_of


def this_launcher(group: int) -> dict[str, Any]:
    """Return who started the process group `group`, so that others can see whether that launcher lives."""
    pid = os.getpid()
    return {"pid": pid, "start_ticks": start_ticks_of(pid), "group": group, "host": socket.gethostname()}
