"""Numbered pieces of work in forked processes, some at once: their progress, their errors, and those that die."""

import json
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from ..errors import TransientError, UserError, first_line

Advance = Callable[[int], None]
"""Called with how much of its piece a process has done so far. It ends the process whose parent is gone."""

_TICK_S = 0.05


@dataclass
class _Child:
    number: int
    slot: int
    errors: int
    """The pipe's end on which an error of the process arrives."""


def each(
    numbers: "list[int]",
    work: "Callable[[int, Advance], None]",
    processes: int,
    progress: Callable[[int], None],
    again: "Callable[[int, str], bool]",
) -> None:
    """Call `work` for each number in a process of its own, at most `processes` at once.

    `progress` gets the sum of what all have done. `again` gets the number of a process that died and how, and answers
    whether to begin that piece once more. Raises what a process raised: UserError, TransientError, RuntimeError.
    """
    waiting, running, done = list(numbers), dict[int, _Child](), 0
    free = list(range(processes))
    with mmap.mmap(-1, 8 * processes) as counters:
        try:
            while waiting or running:
                while waiting and free:
                    pid, child = _start(waiting.pop(0), free.pop(), work, counters)
                    running[pid] = child
                ended = [(pid, status) for pid in running if (status := _ended(pid)) is not None]
                for pid, status in ended:
                    child = running.pop(pid)
                    free.append(child.slot)
                    if _succeeded(child, status, again):
                        done += _counter(counters, child.slot)
                    else:
                        waiting.insert(0, child.number)
                    _set(counters, child.slot, 0)
                progress(done + sum(_counter(counters, child.slot) for child in running.values()))
                time.sleep(0 if ended else _TICK_S)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _start(number: int, slot: int, work: "Callable[[int, Advance], None]", counters: mmap.mmap) -> "tuple[int, _Child]":
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, _Child(number, slot, reading)
    status = 3
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        os.close(reading)

        def advance(so_far: int) -> None:
            if os.getppid() != parent:
                os._exit(3)
            _set(counters, slot, so_far)

        work(number, advance)
        status = 0
    except BaseException as error:
        os.write(writing, json.dumps(_described(error)).encode()[:60_000])
    finally:
        os._exit(status)


def _described(error: BaseException) -> "dict[str, Any]":
    if isinstance(error, UserError):
        kind = "transient" if isinstance(error, TransientError) else "user"
        return {"kind": kind, "message": error.message[:2000], "where": error.where, "hint": error.hint}
    if isinstance(error, OSError):
        where = str(error.filename) if error.filename else None
        return {"kind": "transient", "message": (error.strerror or str(error)).lower(), "where": where, "hint": None}
    return {"kind": "other", "message": f"{type(error).__name__}: {first_line(error)[:2000]}"}


def _ended(pid: int) -> Optional[int]:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _succeeded(child: _Child, status: int, again: "Callable[[int, str], bool]") -> bool:
    """Return whether a process has done its piece, or False where it has to be begun once more. Raises its error."""
    with os.fdopen(child.errors, "rb") as pipe:
        said = pipe.read()
    if status == 0:
        return True
    if said:
        error = json.loads(said)
        if error["kind"] == "other":
            raise RuntimeError(error["message"])
        kind = TransientError if error["kind"] == "transient" else UserError
        raise kind(error["message"], where=error["where"], hint=error["hint"])
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    if again(child.number, how):
        return False
    memory = "; the kernel kills processes when memory runs out" if how == "SIGKILL" else ""
    raise TransientError(f"the process of shard {child.number} ended with {how} again and again{memory}")


def _counter(counters: mmap.mmap, slot: int) -> int:
    return int(struct.unpack_from("<q", counters, 8 * slot)[0])


def _set(counters: mmap.mmap, slot: int, value: int) -> None:
    struct.pack_into("<q", counters, 8 * slot, value)
