"""A transfer that stands still: noticed, and ended.

curl without limits, podman and buildah wait for ever for a registry that has stopped to send. Whether anything moves is
seen from outside: every byte that a program reads or writes is counted in /proc/PID/io (proc_pid_io(5)), and what comes
from a socket is written to a file or a pipe. The programs of docker's daemon are not below the command.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launcher._util.errors import CommandError
from launcher._util.processes import session_members
from launcher.contract.events import ProgressListener
from launcher.contract.process import stat


class StalledError(CommandError):
    """A transfer was ended because nothing moved."""


NOTICE_S = 15.0
LIMIT_S = 60.0
"""Longer than a registry that fetches an image from another one needs until its first byte."""

_LOOK_S = 1.0
_NOISE_BYTES = 1024
"""What programs in Go read and write while they wait: some eight bytes a second, to wake their own threads."""
_LOCKS = re.compile("setlk|lock_inode_wait|lock_file_wait|lease_wait")
"""The functions of the kernel in which a thread waits for a lock on a file (/proc/PID/wchan), of Linux 4.18 to 6.18."""
_STANDS_STILL = "S"
"""The state of a process that waits for something other than a disk (proc_pid_stat(5))."""


@dataclass
class StallWatch:
    """Call it while a program runs. Raises StalledError once nothing has moved for `limit_s`."""

    tool: str
    report: ProgressListener
    notice_s: float = field(default_factory=lambda: NOTICE_S)
    limit_s: float = field(default_factory=lambda: LIMIT_S)
    clock: Callable[[], float] = time.monotonic
    moved: Callable[[int], int | None] = field(default=lambda session: moved_bytes(session))
    waits: Callable[[int], bool] = field(default=lambda session: waits_for_lock(session))
    _waited: bool = field(default=False, init=False)
    _seen: int | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)
    _looked: float = field(default=float("-inf"), init=False)
    _noticed: bool = field(default=False, init=False)

    def __call__(self, session: int) -> None:
        """Look at the processes of the session, once a second at most."""
        now = self.clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        seen = self.moved(session)
        if self.waits(session):
            # It is another program that moves, or does not: its own limit ends it.
            self._seen, self._since, self._noticed = None, now, False
            if not self._waited:
                self._waited = True
                self.report.line(f"{self.tool} waits for another program that holds a lock, as that of its storage")
            return
        self._waited = False
        if seen is None or self._seen is None or not 0 <= seen - self._seen <= _NOISE_BYTES:
            self._seen, self._since, self._noticed = seen, now, False
            return
        still_s = now - self._since
        if still_s >= self.limit_s:
            raise StalledError(f"{self.tool} has received nothing for {still_s:.0f} s: the transfer timed out")
        if still_s >= self.notice_s and not self._noticed:
            self._noticed = True
            left_s = self.limit_s - still_s
            self.report.line(f"nothing has come from the registry for {still_s:.0f} s; in {left_s:.0f} s it is ended")


def moved_bytes(session: int) -> int | None:
    """Return how many bytes the processes of a session have read and written so far.

    None where that is not known, or where a thread computes or waits for a disk: then they do not stand still.
    """
    total = 0
    for pid in session_members(session):
        fields = stat(pid)
        if fields is None or fields[0] in "ZX":
            continue  # it has ended meanwhile
        try:
            if any(state not in (_STANDS_STILL, "Z", "X") for state in _thread_states(pid)):
                return None
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            return None
        counts = dict(line.split(": ", 1) for line in lines if ": " in line)
        total += int(counts["rchar"]) + int(counts["wchar"])
    return total


def waits_for_lock(session: int) -> bool:
    """Return whether a thread of the session waits for a lock on a file.

    Another program holds it: podman and buildah take the locks of their storage once for all of their threads.
    """
    for pid in session_members(session):
        try:
            if any(_LOCKS.search((thread / "wchan").read_text()) for thread in Path(f"/proc/{pid}/task").iterdir()):
                return True
        except OSError:
            continue  # it has ended meanwhile, or the kernel does not say
    return False


def _thread_states(pid: int) -> Iterator[str]:
    """Yield the state of each thread: that of the process is its first thread's alone. Raises OSError."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = stat(int(thread.name))
        if fields is not None:
            yield fields[0]
