"""A file that another process writes while it is read."""

import os
import stat
from pathlib import Path
from typing import Optional

_CHUNK = 1 << 20


class NoFileError(Exception):
    """The path leads to something that cannot be followed: reading a pipe would take lines from its other readers."""


class Tail:
    """Whole lines of a file, in the order in which they come; the file may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._identity: Optional[tuple[int, int]] = None

    def read(self) -> "tuple[list[str], bool]":
        """Return the lines since the last call, and whether the file was truncated or replaced.

        Raises NoFileError for anything but a regular file.
        """
        try:
            found = self._path.stat()
        except OSError:
            return [], False
        if not stat.S_ISREG(found.st_mode):
            raise NoFileError(f"{self._path} is not a regular file")
        again = self._again(found)
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK)
        except OSError:
            return [], again
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in lines], again

    def _again(self, found: os.stat_result) -> bool:
        identity = (found.st_dev, found.st_ino)
        again = self._identity is not None and (identity != self._identity or found.st_size < self._offset)
        if again:
            self._offset, self._rest = 0, b""
        self._identity = identity
        return again
