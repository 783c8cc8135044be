"""A file that grows while it is read, written by somebody else."""

import os
import stat
from pathlib import Path
from typing import Optional

_CHUNK = 1 << 20


class NoFileError(Exception):
    """There is something at the path that cannot be followed: reading a pipe would take its lines from whoever does."""


class Tail:
    """Whole lines of a file, in the order in which they come; the file may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._identity: Optional[tuple[int, int]] = None

    def read(self) -> "tuple[list[str], bool]":
        """The lines since the last call, and whether the file has begun anew: cut short, or another in its place.

        Raises NoFileError for what is no regular file.
        """
        try:
            found = self._path.stat()
        except OSError:
            return [], False
        if not stat.S_ISREG(found.st_mode):
            raise NoFileError(f"{self._path} is no regular file")
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
