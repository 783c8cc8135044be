"""The record by which other processes on the same machine can see that the owner of a download has ended."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from ...contract import process


def this_process() -> dict[str, Any]:
    """Return what identifies this process: host, boot, pid namespace, pid and start (clock ticks since boot)."""
    fields = process.stat(os.getpid())
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pids": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": process.start_ticks(fields) if fields else 0,
    }


def is_gone(record: bytes) -> bool:
    """Return whether the process of a record has certainly ended; False where that cannot be seen from here."""
    try:
        owner = json.loads(record)
        mine = this_process()
        if not mine["boot"] or any(owner[name] != mine[name] for name in ("host", "boot", "pids")):
            return False
        fields = process.stat(int(owner["pid"]))
        if fields is None:
            return not _exists(int(owner["pid"]))
        return fields[0] in "ZX" or process.start_ticks(fields) != owner["started"]
    except (ValueError, KeyError, TypeError):
        return False  # half written: its owner lives, or its heartbeat will stop


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
