"""Removing whole run directories: what one takes, whose it is, and its removal in two steps.

A directory is renamed first, to a hidden name beside it: from then on no command finds the run, even if this process is
killed. What a killed process has left is removed by the next one.
"""

import contextlib
import os
import re
import stat
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher._util.older_python import remove_tree
from launcher._util.ownership import is_own
from launcher.contract.frozen import dataclass
from launcher.contract.paths import RunPaths

_REMOVED = ".removed."
"""Before the id of a run while its files are removed; listings leave hidden directories out."""


@dataclass(frozen=True)
class RunSize:
    """What a run takes on disk, in bytes. Files that other runs share, such as those of code/, are not counted."""

    checkpoints: int
    rest: int
    files: int

    @property
    def total(self) -> int:
        """Return what its removal frees."""
        return self.checkpoints + self.rest


def size_of(run: RunPaths) -> RunSize:
    """Return what a run takes. Raises DiskError where a directory cannot be read."""
    sizes, files = {True: 0, False: 0}, 0
    pending = [(run.path, False)]
    while pending:
        directory, of_checkpoints = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    inside = of_checkpoints or Path(entry.path) == run.checkpoints
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((Path(entry.path), inside))
                        continue
                    files += 1
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1:
                        sizes[inside] += found.st_size
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            raise DiskError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    return RunSize(sizes[True], sizes[False], files)


def require_own(run: RunPaths) -> None:
    """Raise RequestError for a run directory that another user has made, or that is a link."""
    found = run.path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RequestError("this is not a directory", where=str(run.path))
    if not is_own(run.path):
        raise RequestError(
            "the run belongs to another user",
            where=str(run.path),
            hint="Only its owner removes it; nothing was removed.",
        )


def remove_run(run: RunPaths) -> bool:
    """Remove a run's directory; return whether it was there. Raises DiskError.

    Hold the run's submit lock, and be sure that the run is over.
    """
    hidden = run.path.with_name(f"{_REMOVED}{run.path.name}.{os.getpid()}")
    try:
        run.path.rename(hidden)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DiskError(f"cannot be removed: {error.strerror}", where=str(run.path)) from error
    _remove(hidden)
    return True


def sweep(directory: Path) -> None:
    """Remove what killed processes of this user have left in the directory of a run's name."""
    for left in directory.glob(f"{_REMOVED}*"):
        if re.fullmatch(rf"{re.escape(_REMOVED)}.+\.[0-9]+", left.name) and not left.is_symlink():
            with contextlib.suppress(OSError, DiskError):  # another process removes it, or it is another user's
                if left.is_dir() and is_own(left):
                    _remove(left)


def _remove(hidden: Path) -> None:
    def unless_missing(error: BaseException) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        remove_tree(hidden, unless_missing)
    except OSError as error:
        raise DiskError(
            f"the run is gone from all listings, but its files could not all be removed: {error.strerror}",
            where=str(hidden),
            hint="The next `launcher rm` or `launcher gc` there tries again.",
        ) from error
