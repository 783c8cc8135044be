"""A file or directory as one machine sees it, in values that another machine can compare with what it sees there."""

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from launcher.contract.files import open_regular

_HEAD_BYTES = 64 << 10
_MOST_NAMES = 10_000


@dataclass(frozen=True)
class SeenFile:
    """What is at a path; `kind` is None where nothing can be seen there, and `error` then says why."""

    kind: Optional[str]
    """`file` or `directory`."""
    size: int = 0
    """Bytes of a file, names in a directory."""
    digest: str = ""
    """Of a file's first 64 KiB, of a directory's names."""
    error: str = ""

    def difference(self, other: "SeenFile") -> str:
        """Return in words what differs in `other`; an empty text where both are the same."""
        if self.kind != other.kind:
            return f"a {other.kind}, and not a {self.kind}"
        unit = "bytes" if self.kind == "file" else "names"
        if self.size != other.size:
            return f"{other.size:,} {unit}, and not {self.size:,}"
        what = "its first 64 KiB are" if self.kind == "file" else "the names in it are"
        return "" if self.digest == other.digest else f"{what} others"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def look(path: str) -> SeenFile:
    """Return what this machine sees at a path."""
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            names = sorted(each.name for each in Path(path).iterdir())
            text = "\0".join(names[:_MOST_NAMES]).encode("utf-8", "surrogateescape")
            return SeenFile("directory", len(names), hashlib.sha256(text).hexdigest()[:16])
        with open_regular(Path(path)) as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        return SeenFile(None, error=(isinstance(error, OSError) and error.strerror) or str(error))
    return SeenFile("file", found.st_size, hashlib.sha256(head).hexdigest()[:16])


def from_dict(value: Mapping[str, Any]) -> SeenFile:
    """Return what `to_dict` gave. Raises TypeError for anything else."""
    return SeenFile(**value)
