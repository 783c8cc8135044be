"""Free space on the disk: checked before something large is written, named in the error where it was not enough."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from launcher._util.errors import DiskError
from launcher.contract.units import bytes_text

_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write at `path`, or where it would be made: f_bavail of statvfs(3).

    Most file systems leave a user's quota out of this figure: it shows only while writing. Raises DiskError.
    """
    place = _existing(path)
    try:
        answer = os.statvfs(place)
    except OSError as error:
        raise DiskError(f"the free space cannot be read: {error.strerror}", where=str(place)) from error
    # Root may use the reserved blocks, but an image in them would take the space that the system keeps for itself.
    return answer.f_bavail * answer.f_frsize


def require(directory: Path, needed: int, what: str) -> None:
    """Raise DiskError unless `needed` bytes are free at `directory`; `what` names the purpose ("the image")."""
    free = free_bytes(directory)
    if free >= needed:
        return
    raise DiskError(
        f"{what} needs {bytes_text(needed)}, {bytes_text(free)} are free: {bytes_text(needed - free)} are missing",
        where=str(directory),
        hint="Free some space (`launcher image gc` removes images that nothing uses), or choose another directory.",
    )


def disk_error(error: OSError, path: Path, what: str, *, needed: int | None = None) -> DiskError:
    """Return the DiskError for `what` (such as "write the manifest") that failed at `path`.

    For a full disk and an exceeded quota it names the free bytes and, where `needed` is known, the missing ones.
    """
    if error.errno not in _FULL:
        return DiskError(f"cannot {what}: {error.strerror or error}", where=str(path))
    try:
        free = free_bytes(path)
    except DiskError:
        free = 0
    free_text = f"{bytes_text(free)} are free"
    if needed is not None:
        missing = f": {bytes_text(needed - free)} are missing" if needed > free else ""
        free_text = f"{bytes_text(needed)} are needed, {free_text}{missing}"
    if error.errno == errno.EDQUOT:
        hint = "Your quota there is used up (`quota -s`, `lfs quota`): remove what you do not need, or ask for more."
        return DiskError(
            f"cannot {what}: {error.strerror} ({free_text} on the disk as a whole)", where=str(path), hint=hint
        )
    hint = "Free some space (`launcher image gc` removes images that nothing uses), or choose another directory."
    return DiskError(f"cannot {what}: {error.strerror} ({free_text})", where=str(path), hint=hint)


@contextlib.contextmanager
def writing(path: Path, what: str, *, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a DiskError, see `disk_error`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, what, needed=needed) from error


def _existing(path: Path) -> Path:
    """Return `path`, or the nearest directory above it that exists."""
    return next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))
