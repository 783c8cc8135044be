"""Checks of the node's own disk, and of directories that all nodes should see."""

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected

_GIB = 1024**3
PROBE_BYTES = 64 * 1024**2
"""Bytes that are written and synced: more than most disks' own cache, and less than a second's work."""
_WARN_FREE = 20 * _GIB
"""Size of an unpacked training image."""
_SLOW_MBS = 50.0
"""Slower than a single hard disk: unpacking an image would take minutes."""


@dataclass(frozen=True)
class Probe:
    """Result of writing to a directory; `error` is the system's message where it failed."""

    path: str
    free: Optional[int] = None
    mbs: Optional[float] = None
    error: Optional[str] = None
    number: Optional[int] = None
    """Number of the error (errno)."""


def scratch_of(expected: Expected, environ: "os._Environ[str] | dict[str, str]") -> str:
    """Return the directory on the node's own disk: the profile's scratch, expanded here as enter.sh does."""
    if expected.scratch is None:
        return environ.get("TMPDIR") or "/tmp"  # noqa: S108 - what enter.sh takes
    words = expected.scratch
    for name in ("USER", "HOME", "SLURM_JOB_ID", "TMPDIR"):
        for form in (f"${{{name}}}", f"${name}"):
            words = words.replace(form, environ.get(name, form))
    return words


def probe(path: Path, size: int = PROBE_BYTES, *, make: bool = False) -> Probe:
    """Write `size` bytes into a new file in `path`, and remove it.

    With `make`, also create the directory if only its last part is missing, and remove it again.
    """
    made = make and not path.exists() and path.parent.is_dir()
    name = path / f".launcher-doctor.{os.getpid()}"
    try:
        if made:
            path.mkdir()
        free = os.statvfs(path)
        seconds = _write(name, size)
        return Probe(str(path), free.f_bavail * free.f_frsize, size / 1e6 / max(seconds, 1e-6))
    except OSError as error:
        return Probe(str(path), error=error.strerror or str(error), number=error.errno)
    finally:
        with contextlib.suppress(OSError):  # the write failed before there was a file
            name.unlink()
        if made:
            with contextlib.suppress(OSError):  # in use by now
                path.rmdir()


def _write(path: Path, size: int) -> float:
    block = os.urandom(1024**2)  # random, because a file system that compresses would be measured with zeros
    begin = time.monotonic()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - begin


def scratch_check(found: Probe, expected: Expected, in_container: bool) -> Check:
    """Judge free space and speed of the node's own disk."""
    name = "scratch"
    if found.error is not None:
        if in_container and found.number == errno.ENOENT:
            return skip(
                name, f"{found.path} is not mounted into the container, so only the host sees the node's own disk"
            )
        full = found.number in (errno.ENOSPC, errno.EDQUOT)
        remedy = "remove files that earlier jobs left there" if full else "create it for this user on every node"
        return fail(
            name,
            "full" if full else "not writable",
            f"{found.path}: {found.error}",
            f"{remedy}, or set another directory (scratch in the profile)",
        )
    if found.free is None or found.mbs is None:
        return skip(name, "it was not measured")
    value = f"{found.free / _GIB:.0f} GiB free, {found.mbs:.0f} MB/s"
    if found.free < _WARN_FREE and (expected.container or expected.scratch is not None):
        return warn(
            name,
            value,
            f"{found.path} has {found.free / _GIB:.1f} GiB left; an unpacked training image takes about 20",
            "remove files that earlier jobs left there, or set another directory (scratch in the profile)",
            found.mbs,
        )
    if found.mbs < _SLOW_MBS:
        return warn(
            name,
            value,
            f"{found.path} writes {found.mbs:.0f} MB/s: unpacking an image takes minutes",
            "set scratch in the profile to a directory on the node's own disk",
            found.mbs,
        )
    return ok(name, value, found.mbs)


def directories_check(directories: "tuple[str, ...]", read_only: "tuple[str, ...]", container: bool) -> Check:
    """Check that the directories which the profile mounts exist."""
    name = "mounts"
    if not directories:
        return skip(name, "the profile mounts nothing")
    missing = [each for each in directories if not Path(each).exists()]
    if missing:
        where = "in the container" if container else "on this node"
        return fail(
            name,
            f"{len(missing)} of {len(directories)} missing",
            f"{', '.join(missing)}: missing {where}",
            "mount it on the node (see `mount | grep NAME`, `systemctl status autofs`), or leave the node out "
            "(--exclude)",
            len(missing),
        )
    locked = [each for each in directories if each not in read_only and not os.access(each, os.W_OK | os.X_OK)]
    if locked:
        return ok(name, f"{len(directories)} found, {', '.join(locked)} not writable by you", len(directories))
    return ok(name, f"{len(directories)} found", len(directories))
