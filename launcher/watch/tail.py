"""Reading files that grow."""

import codecs
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from launcher.contract.files import open_regular

_PIECE = 1 << 20
"""Bytes of a log that are held at once."""
_BLOCK = 64 << 10
"""Bytes read at once towards the beginning of a file."""


@dataclass
class GrowingFile:
    """Reads the bytes that were added to a file since the last read; a missing file has none."""

    path: Path
    offset: int = 0
    _inode: int | None = field(default=None, init=False)

    def read(self, limit: int) -> tuple[bytes, bool]:
        """Return at most `limit` new bytes, and whether they begin anew: the file was replaced or truncated."""
        anew = False
        try:
            with open_regular(self.path) as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self.offset:
                    anew = self._inode is not None
                    self.offset = 0 if anew else self.offset
                    self._inode = found.st_ino
                file.seek(self.offset)
                data = file.read(limit)
        except OSError:
            return b"", False
        self.offset += len(data)
        return data, anew


class FileTail:
    """Reads the complete lines that were added to a file since the last read; a missing file has none."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Read from `offset`."""
        self._file = GrowingFile(path, offset)
        self._rest = b""

    def read(self, *, unfinished: bool = False, limit: int = 4 << 20) -> list[str]:
        """Return new lines without their ends, at most about `limit` bytes at once.

        `unfinished` also returns an incomplete last line: for the last read of a file that is complete.
        """
        data, anew = self._file.read(limit)
        *lines, self._rest = ((b"" if anew else self._rest) + data).split(b"\n")
        if unfinished and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace") for line in lines]


class LogCopy:
    """Copies a log to a stream, piece by piece, so that its size and the length of its lines cost no memory.

    With `by_lines` a line is written when it is complete, because the lines of several logs alternate, with the prefix
    before it, and of a line longer than a piece each piece is a line. With `only` lines that do not match are left out.
    """

    def __init__(
        self,
        path: Path,
        stream: TextIO,
        *,
        by_lines: bool = False,
        prefix: str = "",
        only: re.Pattern[str] | None = None,
        offset: int = 0,
    ) -> None:
        """Copy from `offset`, which is the beginning of a line."""
        self._file = GrowingFile(path, offset)
        self._stream = stream
        self._by_lines = by_lines
        self._prefix = prefix
        self._only = only
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._in_line = False

    def copy(self, *, whole: bool) -> int:
        """Copy what was added since the last call; return the number of lines that were completed.

        With `whole` the log is complete: its last line gets an end if it has none.
        """
        lines = 0
        while True:
            data, anew = self._file.read(_PIECE)
            if anew:
                lines += self._end()
                self._decoder.reset()
            lines += self._write(self._decoder.decode(data))
            if len(data) < _PIECE:
                break
        if whole:
            lines += self._write(self._decoder.decode(b"", final=True)) + self._end()
        self._stream.flush()
        return lines

    def _write(self, text: str) -> int:
        if not self._by_lines:
            self._stream.write(text)
            self._in_line = not text.endswith("\n") if text else self._in_line
            return text.count("\n")
        *lines, self._held = (self._held + text).split("\n")
        if len(self._held) >= _PIECE:
            lines, self._held = [*lines, self._held], ""
        shown = [line for line in lines if self._only is None or self._only.search(line)]
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in shown))
        return len(shown)

    def _end(self) -> int:
        if not self._held and not self._in_line:
            return 0
        held, self._held, self._in_line = self._held, "", False
        if held and self._only is not None and not self._only.search(held):
            return 0
        self._stream.write(f"{self._prefix}{held}\n")
        return 1


def begin_of_last(file: BinaryIO, count: int) -> int:
    """Return the offset at which the last `count` lines begin, of which an incomplete last line is one.

    Only the end of the file is read. Raises OSError.
    """
    position = size = os.fstat(file.fileno()).st_size
    if count < 1:
        return size
    while position > 0:
        begin = max(0, position - _BLOCK)
        file.seek(begin)
        block = file.read(position - begin)
        end = len(block) - (position == size and block.endswith(b"\n"))
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            count -= 1
            if count == 0:
                return begin + end + 1
        position = begin
    return 0


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
