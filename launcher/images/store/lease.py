"""Leases: locks that need nothing from the file system but exclusive creation, and that do not outlive their holder.

A lease is a directory of generations (launcher/contract/generations.py, which also says why there are never two
holders): the content of the newest says who holds the lease or that it is free, its mtime is the holder's heartbeat.
The next generation is begun only by a process that saw this one free or abandoned.

A lease counts as abandoned when its holder's process has ended, where that can be seen (`Owner.has_ended`), or when its
heartbeat was not seen to change for `stale_s` seconds. No step moves or removes the file of a live holder.

One case remains: a holder that was stopped for longer than that and wakes up, while another process holds the lease. So
before it publishes anything, a holder calls `HeldLease.check`, which begins generation N+1 in the same way. That
succeeds only if no other process did it first, and from then on others again have to watch for `stale_s` seconds.

Why this is not a library. filelock 4.2.11 was tried by itself, not in these tests. Of a SoftFileLease a contender
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
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import OutsideError
from launcher.contract import generations
from launcher.images.store.owner import UNKNOWN_OWNER, Owner
from launcher.images.store.space import disk_error, writing

_HELD, _FREE = '"state": "held"', '"state": "free"'


@dataclass(frozen=True)
class LeaseTiming:
    """Intervals of a lease, in seconds."""

    heartbeat_s: float = 5.0
    stale_s: float = generations.SILENT_S
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


class HeldLease:
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
        if not _begin(self._directory, number, self._text, self._mode):
            raise LeaseLostError(
                "another process took over while this one was stopped for too long: nothing was written",
                where=str(self._directory),
                hint="Run the command again; it finds the image that the other process made.",
            )
        self._number = number

    def release(self) -> None:
        """Give the lease back: the next process gets it at once."""
        self._over.set()
        self._thread.join()
        # In place, the same length, on blocks that exist: this also works on a full disk. A generation that was taken
        # over is no longer there, or no longer counts.
        with contextlib.suppress(OSError):
            descriptor = os.open(generations.file_of(self._directory, self._number), os.O_WRONLY)
            try:
                os.pwrite(descriptor, self._text.replace(_HELD, _FREE).encode(), 0)
            finally:
                os.close(descriptor)

    def _beat(self) -> None:
        while not self._over.wait(self._timing.heartbeat_s):
            # A process that took over removed the file; other errors may have passed by the next time.
            with contextlib.suppress(OSError):
                os.utime(generations.file_of(self._directory, self._number))


def newest(directory: Path) -> Generation | None:
    """Return the generation that counts; None if the lease was never held. Raises DiskError."""
    while True:
        with writing(directory, "read the leases"):
            number = generations.newest_number(directory)
        if number == 0:
            return None
        try:
            heartbeat, text = generations.read(directory, number)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                continue  # a higher one has come
            raise disk_error(error, directory, "read the lease") from error
        return Generation(number, _holder(text), heartbeat)


def begin(
    directory: Path, after: Generation | None, owner: Owner, timing: LeaseTiming, *, kernel: bool, mode: int
) -> HeldLease | None:
    """Become the next holder after a generation that is free or abandoned; return None if another process was faster.

    `mode` gives the permissions of the file. Raises DiskError.
    """
    values = {"token": secrets.token_hex(8), "since": round(time.time(), 3), "kernel": kernel, "owner": owner.to_dict()}
    text = "{" + _HELD + ", " + json.dumps(values)[1:] + "\n"
    number = after.number + 1 if after else 1
    return HeldLease(directory, number, text, timing, mode) if _begin(directory, number, text, mode) else None


def _begin(directory: Path, number: int, text: str, mode: int) -> bool:
    with writing(directory, "write the lease"):
        return generations.begin(directory, number, text, mode=mode, exact_mode=True)


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
