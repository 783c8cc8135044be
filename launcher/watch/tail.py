"""Reading files that grow."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from launcher.contract.files import open_regular


@dataclass
class FileTail:
    """Reads the complete lines that were added to a file since the last read; a missing file has none."""

    path: Path
    offset: int = 0
    _rest: bytes = field(default=b"", init=False)
    _inode: int | None = field(default=None, init=False)

    def read(self, *, unfinished: bool = False, limit: int = 4 << 20) -> list[str]:
        """Return new lines without their ends, at most about `limit` bytes at once.

        `unfinished` also returns an incomplete last line: for the last read of a file that is complete.
        """
        data = self._rest + self._new(limit)
        *lines, self._rest = data.split(b"\n")
        if unfinished and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace") for line in lines]

    def _new(self, limit: int) -> bytes:
        try:
            with open_regular(self.path) as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self.offset:
                    # The file was replaced or truncated: start again at its beginning.
                    self.offset, self._rest = (self.offset if self._inode is None else 0), b""
                    self._inode = found.st_ino
                file.seek(self.offset)
                data = file.read(limit)
        except OSError:
            return b""
        self.offset += len(data)
        return data


def last_lines(path: Path, size: int = 64 << 10) -> list[str]:
    """Return the complete lines in the last `size` bytes of a file; none if it does not exist."""
    try:
        with open_regular(path) as file:
            start = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(start)
            data = file.read()
    except OSError:
        return []
    lines = data.split(b"\n")
    # The first line is incomplete unless reading began at the start; the last is being written, or empty.
    return [line.decode(errors="replace") for line in (lines[1:-1] if start else lines[:-1])]
