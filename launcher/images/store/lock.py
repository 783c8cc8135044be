"""One builder at a time for one key of one store, across processes and machines.

Every holder takes two locks. A lease (lease.py) works everywhere, but that a holder on another machine has died is only
learned by waiting. A lock of the kernel, where the file system has one that reaches all machines (mounts.py), is free
as soon as its holder ends. So a process that gets the kernel's lock takes over at once a lease whose holder had the
kernel's lock, too; all other leases are watched. Both always, because one directory may have kernel locks on one
machine and none on another: a head node exports its disk, and the compute nodes mount it with `nolock`.

The kernel's lock is flock(2), tried without waiting, so that Ctrl-C ends the waiting at once and a server that forgets
to wake the waiting process does not matter. On a local file system an open-file-description lock (fcntl(2),
F_OFD_SETLK) is taken as well: NFS clients of this machine lock through the server's POSIX locks, which flock does not
see.

The file of the kernel's lock stays: removing it would let two processes lock two files of one name.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launcher._util.ownership import require_trusted
from launcher.contract.generations import HeartbeatWatcher
from launcher.images.store.lease import (
    Generation,
    HeldLease,
    LeaseHolder,
    LeaseLostError,
    LeaseTiming,
    begin,
    newest,
)
from launcher.images.store.mounts import mount_of
from launcher.images.store.owner import UNKNOWN_OWNER, Owner
from launcher.images.store.space import writing

__all__ = ["HeldLock", "LeaseHolder", "LeaseLostError", "LeaseTiming", "Lock", "OnWait"]

OnWait = Callable[[LeaseHolder], None]
"""Called when waiting begins and every `LeaseTiming.report_s` seconds, with the holder of that moment."""

_SHARE = "Use a store of your own, or let its owner share it with a group: chmod 2775."
_BUSY = (errno.EAGAIN, errno.EACCES)
# flock(2), fcntl(2): none left or no lockd; not built in; not for this file system (Lustre's noflock: ENOSYS).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class HeldLock:
    """The lock, held."""

    lease: HeldLease
    waited: bool
    """Whether another process had it at the first attempt."""

    def check(self) -> None:
        """Prove that it is still held; call it right before publishing. Raises LeaseLostError, DiskError."""
        self.lease.check()


@dataclass(frozen=True)
class Lock:
    """The lock that lives in `directory` (created when it is first taken).

    `mode` is the permissions of new directories, files get its read and write bits; `kernel` says whether to use the
    kernel's locks, None: where the file system has them. `owner` is the process that asks, by default this one.
    """

    directory: Path
    owner: Owner | None = None
    kernel: bool | None = None
    timing: LeaseTiming = field(default=LeaseTiming())
    mode: int = 0o777

    @contextlib.contextmanager
    def held(self, on_wait: OnWait | None = None) -> Iterator[HeldLock]:
        """Wait for the lock, hold it for the block. Raises DiskError."""
        with contextlib.closing(_Attempt(self)) as attempt:
            lease, waited = attempt.step(), False
            report_at = time.monotonic()
            while lease is None:
                waited = True
                if on_wait is not None and attempt.holder is not None and time.monotonic() >= report_at:
                    on_wait(attempt.holder)
                    report_at = time.monotonic() + self.timing.report_s
                time.sleep(self.timing.poll_s)
                lease = attempt.step()
            try:
                yield HeldLock(lease, waited)
            finally:
                lease.release()

    @contextlib.contextmanager
    def if_abandoned(self, *, watch: bool = True) -> Iterator[HeldLock | None]:
        """Hold the lock for the block if no live process does, else yield None.

        With `watch`, a holder whose heartbeat is the only sign of life is watched until it beats or counts as dead.
        """
        with contextlib.closing(_Attempt(self)) as attempt:
            lease = attempt.step()
            while lease is None and watch and not attempt.is_alive:
                time.sleep(self.timing.poll_s)
                lease = attempt.step()
            try:
                yield HeldLock(lease, waited=False) if lease else None
            finally:
                if lease:
                    lease.release()


class _Attempt:
    """An attempt to get the lock: holds the kernel's lock, once it has it, until `close`."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._owner = lock.owner or Owner.of_this_process()
        self._watcher = HeartbeatWatcher(lock.timing.heartbeat_s, lock.timing.stale_s)
        self._file: int | None = None
        with writing(lock.directory, "make the directory of the lock"):
            make_directory(lock.directory, lock.mode)
        mount = mount_of(lock.directory)
        self._kernel = bool(mount and mount.has_locks) if lock.kernel is None else lock.kernel
        self._local = bool(mount and mount.is_local)
        self._busy = False
        self.holder: LeaseHolder | None = None

    @property
    def is_alive(self) -> bool:
        """Return whether the holder was seen to live."""
        gone = self.holder.owner.has_ended(self._owner) if self.holder else None
        return self._busy or self._watcher.beats > 0 or gone is False

    def step(self) -> HeldLease | None:
        """Try once, without waiting."""
        self._busy = self._kernel and self._file is None and not self._take_kernel_lock()
        current = newest(self._lock.directory)
        self.holder = current.holder if current else None
        if self._busy:
            self.holder = self.holder or LeaseHolder(UNKNOWN_OWNER, 0.0, by_kernel=True)
            return None
        if current and current.holder and not self._is_abandoned(current, current.holder):
            return None
        kernel = self._file is not None
        mode = self._lock.mode & 0o666
        return begin(self._lock.directory, current, self._owner, self._lock.timing, kernel=kernel, mode=mode)

    def close(self) -> None:
        """Give the kernel's lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _is_abandoned(self, current: Generation, holder: LeaseHolder) -> bool:
        if self._file is not None and holder.by_kernel:
            return True
        silent = self._watcher.is_silent(current.number, current.heartbeat)
        return silent or holder.owner.has_ended(self._owner) is True

    def _take_kernel_lock(self) -> bool:
        """Try the kernel's lock; return False if another process has it. Do without where the file system has none."""
        path = self._lock.directory / "lock"
        with writing(path, "open the lock"):
            descriptor = _open(path, self._lock.mode & 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._local:
                    # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (0 for these locks).
                    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)
                # The file may have been removed between opening and locking it.
                if not os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.close(descriptor)
                    return False
            except OSError as error:
                os.close(descriptor)
                self._kernel = error.errno not in _NO_LOCKS
                if not self._kernel:
                    return True
                if error.errno in _BUSY or isinstance(error, FileNotFoundError):
                    return False
                raise
        self._file = descriptor
        return True


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with exactly these permissions, independent of the umask; an existing one stays as it is.

    With the bit setgid in `mode` the directories of a group's other users are taken, else only this user's and root's.
    Raises RequestError for another one.
    """
    made = True
    try:
        path.mkdir()
    except FileExistsError:
        made = False
    except FileNotFoundError:
        make_directory(path.parent, mode)
        make_directory(path, mode)
        return
    for each in (path.parent, path):
        require_trusted(each, shared=bool(mode & stat.S_ISGID), hint=_SHARE)
    if made:
        path.chmod(mode)


def _open(path: Path, mode: int) -> int:
    try:
        # Over NFS an exclusive lock needs a file open for writing: flock(2), "NFS details".
        return os.open(path, os.O_RDWR)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(PermissionError):  # another user made it since, with the mode it should have
            os.fchmod(descriptor, mode)
        return descriptor
