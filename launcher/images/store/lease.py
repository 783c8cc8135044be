"""Leases: locks that need nothing from the file system but exclusive creation, and that do not outlive their holder.

A lease is a directory with files `00000001`, `00000002`, ...: generations. The file with the highest number counts: its
content says who holds the lease or that it is free, its mtime is the holder's heartbeat.

Why there are never two holders. A generation N is begun by creating the file N with O_CREAT|O_EXCL, which one process
on one machine wins (open(2); over NFS from version 3 on), and only by a process that saw N-1 free or abandoned. Then
the winner lists the directory again, and is the holder only if N is the highest number; otherwise it removes its N and
starts over. The second listing is for a process that was stopped since the first: the numbers that it saw may be gone
by now, so that creating N succeeds again. The listing is reliable, because the highest number is never removed: only
the holder of N removes files, those below N. No step moves or removes the file of a live holder.

When a lease counts as abandoned: its holder's process has ended, where that can be seen (`Owner.has_ended`); or its
heartbeat was not seen to change for `stale_s` seconds of the watcher's own watching. The clocks of two machines are
never compared, and a watcher that was itself stopped counts no more than one heartbeat for that time.

One case remains: a holder that was stopped for longer than that and wakes up, while another process holds the lease. So
before it publishes anything, a holder calls `Lease.check`, which begins generation N+1 in the same way: that succeeds
only if no other process did it first, and from then on others again have to watch for `stale_s` seconds.

Why this is not a library. filelock 4.2.11 was measured apart from these tests. Of a SoftFileLease a contender
and a holder that was stopped can both be the owner: `is_lock_held_by_us` renews nothing, so a contender that judged the
lease abandoned before the holder asked takes it after the holder has asked. Both stopped for longer than the lease (a
suspended machine, a hanging file server), it was taken from a live holder in 8 of 10 trials. Where the file system
cannot exchange two names (RENAME_EXCHANGE: NFS, SMB), nothing takes over a dead holder's lease at all. A
StrictSoftFileLock is never taken over by itself.

The heartbeat is a thread. A long call in C that gives up the interpreter's lock (hashing, reading, waiting for a
program) does not stop it; SIGSTOP of the whole process does: hence `check`.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import OutsideError
from launcher.images.store.owner import UNKNOWN_OWNER, Owner
from launcher.images.store.space import disk_error

_HELD, _FREE = '"state": "held"', '"state": "free"'


@dataclass(frozen=True)
class LeaseTiming:
    """Intervals of a lease, in seconds."""

    heartbeat_s: float = 5.0
    # More than an NFS client keeps attributes by default (acregmax and acdirmax: 60 s, nfs(5)).
    stale_s: float = 90.0
    poll_s: float = 0.5
    report_s: float = 30.0


@dataclass(frozen=True)
class LeaseHolder:
    """The holder of a lease, from its file; `since` in seconds since the epoch by the holder's clock, 0 if unknown."""

    owner: Owner
    since: float
    by_kernel: bool
    """Whether it also holds the kernel's lock (see lock.py)."""


@dataclass(frozen=True)
class Generation:
    """One file of a lease as it was seen; `holder` is None if it is free."""

    number: int
    holder: LeaseHolder | None
    heartbeat: int
    """The mtime in ns, of which only changes count: the clocks of machines differ."""


class LeaseLostError(OutsideError):
    """Another process took the lease over because this one was stopped for too long."""


class Lease:
    """A lease that this process holds, with its heartbeat, until `release`."""

    def __init__(self, directory: Path, number: int, text: str, timing: LeaseTiming, mode: int) -> None:
        self._directory = directory
        self._number = number
        self._text = text
        self._timing = timing
        self._mode = mode
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Prove that the lease is still held, and renew it. Raises LeaseLostError, DiskError."""
        number = self._number + 1
        if not _create(self._directory, number, self._text, self._mode):
            raise LeaseLostError(
                "another process took over while this one was stopped for too long: nothing was written",
                where=str(self._directory),
                hint="Run the command again; it finds the image that the other process made.",
            )
        self._number = number
        _remove_below(self._directory, number)

    def release(self) -> None:
        """Give the lease back: the next process gets it at once."""
        self._over.set()
        self._thread.join()
        # In place, the same length, on blocks that exist: this also works on a full disk. A generation that was taken
        # over is no longer there, or no longer counts.
        with contextlib.suppress(OSError):
            descriptor = os.open(_file(self._directory, self._number), os.O_WRONLY)
            try:
                os.pwrite(descriptor, self._text.replace(_HELD, _FREE).encode(), 0)
            finally:
                os.close(descriptor)

    def _beat(self) -> None:
        while not self._over.wait(self._timing.heartbeat_s):
            # A process that took over removed the file; other errors may have passed by the next time.
            with contextlib.suppress(OSError):
                os.utime(_file(self._directory, self._number))


def newest(directory: Path) -> Generation | None:
    """Return the generation that counts; None if the lease was never held. Raises DiskError."""
    while True:
        number = max(_numbers(directory), default=0)
        if number == 0:
            return None
        try:
            # Opening, unlike stat, makes an NFS client ask the server for the attributes (close-to-open, nfs(5)).
            with _file(directory, number).open("rb") as file:
                heartbeat = os.fstat(file.fileno()).st_mtime_ns
                text = file.read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                continue  # a higher one has come
            raise disk_error(error, directory, "read the lease") from error
        return Generation(number, _holder(text), heartbeat)


def begin(
    directory: Path, after: Generation | None, owner: Owner, timing: LeaseTiming, *, kernel: bool, mode: int
) -> Lease | None:
    """Become the next holder after a generation that is free or abandoned; return None if another process was faster.

    `mode` gives the permissions of the file. Raises DiskError.
    """
    values = {"token": secrets.token_hex(8), "since": round(time.time(), 3), "kernel": kernel, "owner": owner.to_dict()}
    text = "{" + _HELD + ", " + json.dumps(values)[1:] + "\n"
    number = after.number + 1 if after else 1
    if not _create(directory, number, text, mode):
        return None
    _remove_below(directory, number)
    return Lease(directory, number, text, timing, mode)


class Watcher:
    """Watches the heartbeat of a lease by this process's own monotonic clock."""

    def __init__(self, timing: LeaseTiming) -> None:
        self._timing = timing
        self._seen: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._quiet_s = 0.0
        self.beats = 0

    def is_silent(self, generation: Generation) -> bool:
        """Compare the heartbeat with the last one; return whether it has not changed for too long."""
        now = time.monotonic()
        current = (generation.number, generation.heartbeat)
        if current != self._seen:
            self.beats += self._seen is not None
            self._seen, self._quiet_s = current, 0.0
        else:
            # A watcher that was stopped saw nothing in that time.
            self._quiet_s += min(now - self._looked_at, self._timing.heartbeat_s)
        self._looked_at = now
        return self._quiet_s >= self._timing.stale_s


def _create(directory: Path, number: int, text: str, mode: int) -> bool:
    """Begin a generation; return False if another process has begun it, or a higher one."""
    path = _file(directory, number)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    except OSError as error:
        raise disk_error(error, directory, "create the lease") from error
    try:
        try:
            os.fchmod(descriptor, mode)
            # No fsync: a machine that loses this in a crash no longer runs the holder either.
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        if max(_numbers(directory), default=0) == number:
            return True
    except OSError as error:
        # The generation below is still there: it counts again.
        path.unlink(missing_ok=True)
        raise disk_error(error, directory, "write the lease") from error
    path.unlink(missing_ok=True)
    return False


def _numbers(directory: Path) -> list[int]:
    try:
        return [int(path.name) for path in directory.iterdir() if re.fullmatch(r"[0-9]{8}", path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, directory, "read the leases") from error


def _remove_below(directory: Path, number: int) -> None:
    for each in _numbers(directory):
        if each < number:
            with contextlib.suppress(OSError):
                _file(directory, each).unlink()


def _file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}"


def _holder(text: bytes) -> LeaseHolder | None:
    """Return the holder; an unknown one for a file that is just being written, or was left half written by a crash."""
    try:
        value = json.loads(text)
        if value["state"] == "free":
            return None
        owner = Owner.from_dict(value["owner"]) or UNKNOWN_OWNER
        return LeaseHolder(owner, float(value["since"]), bool(value["kernel"]))
    except (ValueError, KeyError, TypeError):
        return LeaseHolder(UNKNOWN_OWNER, 0.0, by_kernel=False)
