"""What the launcher uses of newer standard libraries, for every Python from 3.10 on."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING or sys.version_info < (3, 11):
    from enum import Enum

    class StrEnum(str, Enum):
        """An enumeration whose members are texts, and are formatted as such."""

        __str__ = str.__str__
        __format__ = str.__format__  # type: ignore[assignment]
else:
    from enum import StrEnum as StrEnum


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file's bytes, in hexadecimal digits."""
    import hashlib

    if sys.version_info >= (3, 11):
        return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def remove_tree(path: Path, on_error: Callable[[BaseException], None]) -> None:
    """Remove a directory with all that it holds. `on_error` is called for each failure and may raise it."""
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _function, _path, error: on_error(error))
    else:
        shutil.rmtree(path, onerror=lambda _function, _path, found: on_error(found[1]))
