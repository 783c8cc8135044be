"""Which process holds a turn, so that others on its machine can see that it has gone."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from ...contract import process


def this_process() -> dict[str, Any]:
    """What tells this process from all others: its machine, boot, pid namespace, number and start (clock ticks)."""
    fields = process.stat(os.getpid())
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pids": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": process.start_ticks(fields) if fields else 0,
    }


def is_gone(card: bytes) -> bool:
    """Whether the process of a card has ended, as far as this one can tell."""
    try:
        holder = json.loads(card)
        mine = this_process()
        if not mine["boot"] or any(holder[name] != mine[name] for name in ("host", "boot", "pids")):
            return False
        fields = process.stat(int(holder["pid"]))
        if fields is None:
            return not _exists(int(holder["pid"]))
        return fields[0] in "ZX" or process.start_ticks(fields) != holder["started"]
    except (ValueError, KeyError, TypeError):
        return False  # half written: its holder lives, or its heart will not beat


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
