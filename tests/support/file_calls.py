"""File calls of this process, counted by kind, and slowed down as a busy file server slows them.

    with FileCalls(directory, delay_s=0.001) as calls:
        verdict.compose(...)
    calls.counts["open"]

Counted are the calls that a file server answers: opens, creates, stats, listings, renames, new and removed names, and
fsyncs. Reads, writes and closes are not, since a client may answer them from its own memory.
"""

import contextlib
import os
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_NAMES = {
    "os.listdir": "list",
    "os.scandir": "list",
    "os.mkdir": "mkdir",
    "os.rename": "rename",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "os.link": "link",
    "os.symlink": "link",
}
"""Audit events of Python (docs.python.org, Audit events table) by kind of call; `open` is divided into two kinds."""

_active: "list[FileCalls]" = []
_hooked = False


class FileCalls:
    """Count the calls below `directory`; each takes `delay_s` longer."""

    def __init__(self, directory: Path, *, delay_s: float = 0.0) -> None:
        self._below = str(directory)
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "FileCalls":
        global _hooked
        if not _hooked:  # a hook stays for the life of the process
            sys.addaudithook(_hook)
            _hooked = True
        for name in ("stat", "lstat", "fsync", "fdatasync"):
            self._stack.enter_context(_replaced(name, self._around(getattr(os, name), name)))
        _active.append(self)
        return self

    def __exit__(self, *_error: object) -> None:
        _active.remove(self)
        self._stack.close()

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of calls by kind."""
        return dict(sorted(self._counts.items()))

    def note(self, kind: str, path: object) -> None:
        """Count a call, if it is below the directory, and wait as long as it would take."""
        # The number of an open file: what was opened is counted already.
        if not isinstance(path, (str, bytes, os.PathLike)) or not os.fsdecode(path).startswith(self._below):
            return
        with self._lock:
            self._counts[kind] += 1
        if self._delay_s:
            time.sleep(self._delay_s)

    def _around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(path: Any, *arguments: Any, **named: Any) -> Any:
            if name in ("fsync", "fdatasync"):
                is_directory = stat.S_ISDIR(os.fstat(path).st_mode)
                self.note("fsync of a directory" if is_directory else "fsync", Path(f"/proc/self/fd/{path}").readlink())
            else:
                self.note("stat", path)
            return function(path, *arguments, **named)

        return counted


@contextlib.contextmanager
def _replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(os, name)
    setattr(os, name, function)
    try:
        yield
    finally:
        setattr(os, name, before)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active:
        return
    if event == "open":
        path, _mode, flags = arguments
        kind = "create" if isinstance(flags, int) and flags & os.O_CREAT else "open"
    elif event in _NAMES:
        kind, path = _NAMES[event], arguments[0]
    else:
        return
    for each in tuple(_active):
        each.note(kind, path)
