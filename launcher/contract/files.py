"""Files that another process may read at any moment: written whole, or appended to line by line."""

import contextlib
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional


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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as the JSON text of a whole file; what JSON has no form for becomes text.

    The directory is made where it is missing. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_object(path: Path) -> Optional[dict[str, Any]]:
    """Return the JSON object in a file; None where there is no file, or something else in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class JsonLines:
    """A file of JSON lines, open for appending.

    Each line goes to the kernel in one write, so lines of two processes never mix and a killed process leaves no half
    one behind.
    """

    def __init__(self, path: Path, *, parents: bool = False) -> None:
        """Open the file, with `parents` also where its directory is missing. Raises OSError."""
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def append(self, record: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append one record; with `sync` it is on the disk before this returns. Raises OSError.

        Numbers that JSON lacks (NaN, infinity) become null, by name in `not_finite`.
        """
        bad = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
        clean = {**record, **dict.fromkeys(bad), **({"not_finite": bad} if bad else {})}
        os.write(self._descriptor, (json.dumps(clean) + "\n").encode())
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
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, oldest first; none where there is no file. Raises OSError."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
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
