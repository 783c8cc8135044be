"""Reading a growing file piece by piece."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FileTail:
    """The whole lines that a file has gained since the last look; a file that is not there yet has none."""

    path: Path
    offset: int = 0
    _rest: bytes = field(default=b"", init=False)
    _inode: int | None = field(default=None, init=False)

    def read(self, *, unfinished: bool = False, limit: int = 4 << 20) -> list[str]:
        """New lines, without their ends; at most about `limit` bytes at once.

        `unfinished` also gives what stands behind the last line end: for the last look at a file that nobody writes to
        any more.
        """
        data = self._rest + self._new(limit)
        *lines, self._rest = data.split(b"\n")
        if unfinished and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace") for line in lines]

    def _new(self, limit: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self.offset:
                    # Another file under the same name, or one that was cut: what we have seen is not in it.
                    self.offset, self._rest = (self.offset if self._inode is None else 0), b""
                    self._inode = found.st_ino
                file.seek(self.offset)
                data = file.read(limit)
        except OSError:
            return b""
        self.offset += len(data)
        return data


def last_lines(path: Path, size: int = 64 << 10) -> list[str]:
    """The whole lines in the last `size` bytes of a file; none if there is no file."""
    try:
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(start)
            data = file.read()
    except OSError:
        return []
    lines = data.split(b"\n")
    # The first is a part unless we began at the start, the last is one that is being written (or empty).
    return [line.decode(errors="replace") for line in (lines[1:-1] if start else lines[:-1])]
