"""The files of `code/`, of which the runs below one root share one copy each where the file system has hard links.

A copy lies in `<run root>/.code-<uid>/<digest>-<mode>`, and each run links to it: a run stays whole when another, or
the store, is removed. Shared files are read-only, so that those of another run are not changed by accident; a copy that
was changed all the same is not handed to a further run, and the runs that have it refuse to train with it
(launcher/job/sources.py).
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from pathlib import Path

from launcher.contract.process import ProcessIdentity

_PARTIAL = ".partial"
_COPY = re.compile(r"[0-9a-f]{64}-[0-7]+", re.ASCII)
_UNUSED_S = 3600
"""Seconds after which a copy without a run is removed: the launcher that made it has linked it by then."""


class CodeStore:
    """The copies of one user below a run root."""

    def __init__(self, run_root: Path) -> None:
        self._directory = run_root / f".code-{os.geteuid()}"
        self._usable: bool | None = None
        self._added = False
        self._maker = ""

    def place(self, content: bytes, target: Path, mode: int) -> str:
        """Write a file that can only be read, by a link if possible; return its SHA-256. Raises OSError.

        `mode` has the permissions of the file if the run had it to itself.
        """
        mode &= ~0o222
        digest = hashlib.sha256(content).hexdigest()
        if not self._link(content, digest, target, mode):
            _write(target, content, mode)
        return digest

    def sweep(self, *, older_than_s: float = _UNUSED_S) -> None:
        """Remove the copies that no run uses any more, and the directory if nothing is left in it."""
        # Another run may add or remove copies meanwhile; the next sweep finds what stays.
        with contextlib.suppress(OSError):
            # Below a run root that a group shares, another user may have put something else in this place.
            opened = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _is_own(os.fstat(opened)):
                    _remove_unused(opened, older_than_s)
                    self._directory.rmdir()
            finally:
                os.close(opened)

    @property
    def has_grown(self) -> bool:
        """Whether a copy was added by this process."""
        return self._added

    def _link(self, content: bytes, digest: str, target: Path, mode: int) -> bool:
        """Link `target` to the copy; return False where that is not possible here."""
        if self._usable is None:
            self._usable = self._make()
        if not self._usable:
            return False
        kept = self._directory / f"{digest}-{mode:o}"
        try:
            if not _holds(kept, content, mode):
                self._put(kept, content, mode)
            try:
                os.link(kept, target)
            except OSError as error:
                if error.errno != errno.EMLINK:  # as many links as the file system allows
                    raise
                self._put(kept, content, mode)
                os.link(kept, target)
        except OSError:
            self._usable = False
            return False
        return True

    def _put(self, kept: Path, content: bytes, mode: int) -> None:
        """Write a new copy in place of what is there; runs that have the former one keep it."""
        self._added = True
        self._maker = self._maker or ProcessIdentity.of_this_process().short()
        temporary = kept.with_name(f".{secrets.token_hex(8)}.{self._maker}{_PARTIAL}")
        try:
            _write(temporary, content, mode)
            temporary.replace(kept)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _make(self) -> bool:
        """Make the directory; return whether it is this user's alone."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            found = self._directory.lstat()
        except OSError:
            return False
        return _is_own(found)


def _is_own(directory: os.stat_result) -> bool:
    """Return whether it is a directory that this user alone can change."""
    own = stat.S_ISDIR(directory.st_mode) and directory.st_uid == os.geteuid()
    return own and not directory.st_mode & 0o022


def _remove_unused(directory: int, older_than_s: float) -> None:
    """Remove the copies without a run from an opened directory. Raises OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            unused = found.st_nlink == 1 and found.st_ctime <= time.time() - older_than_s
            if (unused and _COPY.fullmatch(entry.name)) or _is_left_over(entry.name):
                os.unlink(entry.name, dir_fd=directory)


def _holds(kept: Path, content: bytes, mode: int) -> bool:
    """Return whether the copy is there, unchanged."""
    try:
        found = kept.lstat()
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) != mode or found.st_size != len(content):
            return False
        return kept.read_bytes() == content
    except OSError:
        return False


def _is_left_over(name: str) -> bool:
    """Return whether it is a copy that a launcher of this machine did not finish before it ended."""
    if not name.endswith(_PARTIAL):
        return False
    maker = ProcessIdentity.from_short(name.removesuffix(_PARTIAL).rpartition(".")[2])
    return maker is not None and maker.has_ended() is True


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
