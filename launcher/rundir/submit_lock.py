"""One launcher at a time starts another attempt of a run."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from launcher._util.errors import DiskError, RequestError
from launcher.contract.paths import RunPaths

_WAIT_S = 60.0
_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""flock(2) on a file system without locks; then only the lease of the run keeps jobs apart."""


@contextlib.contextmanager
def submit_lock(run: RunPaths, *, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold the lock; it is free again when this process ends, however that happens.

    Raises RequestError if another launcher holds it for longer than `wait_s`, DiskError.
    """
    try:
        descriptor = os.open(run.submit_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(f"cannot lock the run: {error.strerror}", where=str(run.path)) from error
    try:
        deadline = time.monotonic() + wait_s
        while not _locked(descriptor, run):
            if time.monotonic() > deadline:
                raise RequestError(
                    "another launcher is starting an attempt of this run",
                    where=str(run.path),
                    hint="Look at `launcher status` when it has ended.",
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, run: RunPaths) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno in _NO_LOCKS:
            return True
        raise DiskError(f"cannot lock the run: {error.strerror}", where=str(run.path)) from error
    return True
