"""Ownership of a directory by numbered files: works on every file system, needs only exclusive creation.

A directory holds files `00000001`, `00000002`, ...: generations. The highest number counts. Its content describes the
owner, and its mtime is the owner's heartbeat. What else belongs to a generation has its number and an ending.

Why one process at most begins a generation. It creates the file with O_CREAT|O_EXCL, which succeeds for one process on
one machine only (open(2); over NFS from version 3 on). Then it lists the directory again, and owns the generation only
if its number is the highest; otherwise it removes its file. The second listing is for a process that was stopped since
the first: the numbers that it saw may be gone by now, so that creating the file succeeds again. The listing is
reliable, because the highest number is never removed: only the owner of a generation removes files, those below it.

When an owner counts as silent: its heartbeat was not seen to change for some time of the watcher's own watching. The
clocks of two machines are never compared, and a watcher that was itself stopped counts no more than one heartbeat for
that time.
"""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Optional

SILENT_S = 90.0
"""How long an owner may show no heartbeat by default, in seconds. More than an NFS client keeps attributes by default
(acregmax and acdirmax: 60 s, nfs(5))."""


def file_of(directory: Path, number: int) -> Path:
    """Return the file of a generation."""
    return directory / f"{number:08d}"


def newest_number(directory: Path) -> int:
    """Return the number of the generation that counts; 0 if none was ever begun. Raises OSError."""
    try:
        return max((int(path.name) for path in directory.iterdir() if re.fullmatch(r"[0-9]{8}", path.name)), default=0)
    except FileNotFoundError:
        return 0


def read(directory: Path, number: int) -> tuple[int, bytes]:
    """Return the heartbeat of a generation (its mtime in ns) and its content.

    Raises OSError: with ENOENT or ESTALE where a later generation has replaced this one.
    """
    # Opening, unlike stat, makes an NFS client ask the server for the attributes (close-to-open, nfs(5)).
    with file_of(directory, number).open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read()


def begin(directory: Path, number: int, text: str, *, mode: int = 0o666, exact_mode: bool = False) -> bool:
    """Begin a generation and remove those below it; return False if another process has this number or a higher one.

    `mode` is subject to the umask unless `exact_mode` is set. Raises OSError, and then the generation below counts.
    """
    path = file_of(directory, number)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    try:
        try:
            if exact_mode:
                os.fchmod(descriptor, mode)
            # No fsync: a machine that loses this in a crash no longer runs the owner either.
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        is_newest = newest_number(directory) == number
    except OSError:
        path.unlink(missing_ok=True)
        raise
    if not is_newest:
        path.unlink(missing_ok=True)
        return False
    _remove_below(directory, number)
    return True


def _remove_below(directory: Path, number: int) -> None:
    # The next generation removes what cannot be removed now; until then it does not count.
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            earlier = re.fullmatch(r"([0-9]{8})(\..*)?", path.name)
            if earlier and int(earlier[1]) < number:
                # Each file is tried: one that cannot be removed does not keep the others.
                with contextlib.suppress(OSError):
                    path.unlink()


class HeartbeatWatcher:
    """Watches the heartbeat of generations by this process's own monotonic clock.

    An owner beats every `beat_s` seconds, and counts as silent after `silent_s` without a beat.
    """

    def __init__(self, beat_s: float, silent_s: float) -> None:
        self._beat_s = beat_s
        self._silent_s = silent_s
        self._seen: Optional[tuple[int, int]] = None
        self._looked_at = 0.0
        self._quiet_s = 0.0
        self.beats = 0

    def is_silent(self, number: int, heartbeat: int) -> bool:
        """Compare the heartbeat of a generation with the last one; return whether it has not changed for too long."""
        now = time.monotonic()
        if (number, heartbeat) != self._seen:
            self.beats += self._seen is not None
            self._seen, self._quiet_s = (number, heartbeat), 0.0
        else:
            # A watcher that was stopped saw nothing in that time.
            self._quiet_s += min(now - self._looked_at, self._beat_s)
        self._looked_at = now
        return self._quiet_s >= self._silent_s
