"""Locks between launchers: the kernel's, on a file that exists anyway, so that no lock outlives its holder."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher._util.user_paths import exists
from launcher.contract.paths import RunPaths

_WAIT_S = 60.0
_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""flock(2) on a file system without locks; then only the lease of the run keeps jobs apart."""


@contextlib.contextmanager
def submit_lock(run: RunPaths, *, wait_s: float = _WAIT_S) -> Iterator[int]:
    """Hold the lock under which one launcher at a time starts another attempt; yield its descriptor.

    The locked file is the journal, which is never replaced. Raises RequestError if another launcher holds the lock for
    longer than `wait_s`, or has removed the run meanwhile, and DiskError.
    """
    busy = RequestError(
        "another launcher is starting an attempt of this run",
        where=str(run.path),
        hint="Look at `launcher status` when it has ended.",
    )
    with locked(run.journal_file, wait_s=wait_s, busy=busy) as descriptor:
        if not exists(run.journal_file):
            raise RequestError("the run was removed meanwhile", where=str(run.path))
        yield descriptor


def sweep_lock_file(directory: Path) -> Path:
    """Return the file that the launcher which drives a sweep holds locked; `directory` is that of the runs' name."""
    return directory / "sweep" / "lock"


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file; False where there is none. Raises DiskError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DiskError(f"cannot look at the lock: {error.strerror}", where=str(path)) from error
    try:
        return not _try_lock(descriptor, path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait_s: float, busy: Exception, on_wait: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock of a file, which is made where it is missing; yield the file's descriptor.

    The lock is free again when this process, and every program that was given the descriptor, has ended, however that
    happens. `on_wait` is called once before waiting. Raises `busy` after `wait_s`, DiskError.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(f"cannot lock {path.name}: {error.strerror}", where=str(path.parent)) from error
    try:
        deadline = time.monotonic() + wait_s
        while not _try_lock(descriptor, path):
            if on_wait is not None:
                on_wait()
                on_wait = None
            if time.monotonic() > deadline:
                raise busy
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno in _NO_LOCKS:
            return True
        raise DiskError(f"cannot lock {path.name}: {error.strerror}", where=str(path.parent)) from error
    return True
