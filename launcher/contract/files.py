"""Files that another process may read at any moment: written whole, or appended to line by line."""

import contextlib
import errno
import json
import math
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

RUN_FILE_BYTES = 64 << 20
"""The largest file of a run that is read whole."""

LINES_FILE_BYTES = 1 << 30
"""The largest file of JSON lines that is read whole: the metrics of some million iterations."""

MAX_DEPTH = 100
"""The deepest nesting of objects and lists in a file of JSON or TOML: functions that call themselves follow it."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Nothing else is waited for, such as a fifo.

    Raises OSError, whose `strerror` says what is wrong with the file.
    """
    return os.fdopen(_opened(path)[0], "rb")


def _opened(path: Union[Path, str]) -> tuple[int, int]:
    """Return a descriptor of a regular file, and its size. Raises OSError as `open_regular` does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        raise OSError(errno.EINVAL, "the name contains a NUL byte", str(path)) from None
    found = os.fstat(descriptor)
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return descriptor, found.st_size
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    raise OSError(errno.EINVAL, "is not a regular file", str(path))


def read_bytes(path: Union[Path, str], *, limit: int = RUN_FILE_BYTES) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises OSError as `open_regular` does."""
    descriptor, size = _opened(path)
    try:
        # Not `limit` at once: so much memory would be reserved for the smallest file.
        content = os.read(descriptor, size + 1) if size <= limit else b""
        if len(content) != size and size <= limit:  # it grows, is one of /proc, or larger than one call reads
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content += file.read(limit + 1 - len(content))
    finally:
        os.close(descriptor)
    if size > limit or len(content) > limit:
        shown = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise OSError(errno.EFBIG, f"is larger than {shown}", str(path))
    return content


def read_text(path: Path, *, limit: int = RUN_FILE_BYTES, errors: str = "strict") -> str:
    """Return the text of a regular file in UTF-8, as `read_bytes` reads it. Raises OSError, UnicodeDecodeError."""
    return read_bytes(path, limit=limit).decode("utf-8", errors)


def is_deeper_than(value: object, limit: int) -> bool:
    """Return whether objects and lists are nested more than `limit` deep."""
    level: list[object] = [value]
    for _ in range(limit + 1):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        if not inner:
            return False
        level = inner
    return True


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for one that is nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if is_deeper_than(value, MAX_DEPTH):
        raise ValueError("is nested too deeply")
    return value


def write_text(path: Path, text: str, *, mode: int = 0o666, exact_mode: bool = False) -> None:
    """Write a file so that a reader sees all of it or nothing, even after a crash of the machine.

    `mode` is subject to the umask unless `exact_mode` is set. Raises OSError, and then leaves the file of before.
    """
    # A thread id is one of the machine's process ids: no other thread has this name.
    temporary = path.with_name(f".{path.name[:100]}.{threading.get_native_id()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if exact_mode:
                os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that is raised is the cause
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def write_json(path: Path, value: Any, *, mode: int = 0o666) -> None:
    """Write `value` as the JSON text of a whole file; what JSON has no form for becomes text.

    The directory is made where it is missing. `mode` is as for `write_text`. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, default=str) + "\n", mode=mode)


def read_object(path: Path) -> Optional[dict[str, Any]]:
    """Return the JSON object in a file; None where there is no file, or something else in it."""
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class JsonLines:
    """A file of JSON lines, open for appending.

    Each line goes to the kernel in one write, so lines of two processes never mix and a killed process leaves no half
    one behind. A full disk may leave one: the next line begins behind it.
    """

    def __init__(self, path: Path, *, parents: bool = False) -> None:
        """Open the file, with `parents` also where its directory is missing. Raises OSError."""
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        size = os.fstat(self._descriptor).st_size
        self._in_line = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, record: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append one record; with `sync` it is on the disk before this returns. Raises OSError.

        Numbers that JSON lacks (NaN, infinity) become null, by name in `not_finite`.
        """
        bad = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
        clean = {**record, **dict.fromkeys(bad), **({"not_finite": bad} if bad else {})}
        line = (("\n" if self._in_line else "") + json.dumps(clean) + "\n").encode()
        self._in_line = True
        written = os.write(self._descriptor, line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._in_line = False
        if sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def append_line(path: Path, record: Mapping[str, Any], *, sync: bool = False) -> None:
    """Append one record to a file of JSON lines, as `JsonLines.append` does. Raises OSError."""
    lines = JsonLines(path)
    try:
        lines.append(record, sync=sync)
    finally:
        lines.close()


def parse_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; a line that a crash cut short, or that holds anything else, is left out."""
    for line in lines:
        try:
            value = parse_json(line)
        except ValueError:
            continue  # as the docstring says; readers check the form of what they need
        if isinstance(value, dict):
            yield value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, oldest first; none where there is no file. Raises OSError."""
    try:
        text = read_text(path, limit=LINES_FILE_BYTES, errors="replace")
    except FileNotFoundError:
        return []
    return list(parse_lines(text.splitlines()))


def _sync_directory(path: Path) -> None:
    # The rename is durable only when the directory is. Some network file systems refuse that: they have no need for it.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
