"""Directories and single files of an image, read with unsquashfs without unpacking the image.

Source: squashfs-tools `CHANGES` (which option came when). Everything works with the 4.4 of RHEL 9 and Debian 11: `-cat`
came with 4.5 and is not used (its output, decoded as text, would not keep binary files unchanged); without
`-max-depth`, which is of 4.5 too, the whole file system is listed once: about a second for 50,000 files.
"""

import re
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher._util.shell import Result, Shell
from launcher.images.inspect.squashfs import broken, words

_EXTRACT_TIMEOUT_S = 120.0
"""Unpacking runs in threads that a damaged file may leave waiting for each other; listing does not."""

Kind = Literal["file", "directory", "link", "other"]
_KINDS: Mapping[str, Kind] = {"-": "file", "d": "directory", "l": "link"}

# A line of `unsquashfs -lls`: mode, owner, size (or the numbers of a device), time, path.
_LINE = re.compile(r"([-dlbcps])[-rwxsStT]{9} \S+/\S+ +(?:\d+, *\d+|(\d+)) \d{4}-\d\d-\d\d \d\d:\d\d squashfs-root(.*)")


@dataclass(frozen=True)
class DirectoryEntry:
    """One name in a directory."""

    kind: Kind
    size_bytes: int = 0
    target: str = ""
    """Where a symbolic link leads."""


Listing = dict[str, DirectoryEntry]
"""A directory: its entries by name."""


def list_directories(image: Path, shell: Shell, directories: Iterable[str]) -> dict[str, Listing]:
    """List directories of an image, without their subdirectories; the result may hold others, read along the way.

    `directories` are real paths such as `/usr/lib` (`/` is the root). One call of unsquashfs for all of the same depth.
    Raises ImageError if the image is damaged, MissingProgramError without unsquashfs.
    """
    by_depth: dict[int, list[str]] = {}
    for directory in directories:
        by_depth.setdefault(len([part for part in directory.split("/") if part]), []).append(directory)
    found: dict[str, Listing] = {}
    for depth, asked in sorted(by_depth.items()):
        # unsquashfs' wildcards leave out names with a dot at their start, like a shell's
        patterns = [f"{_escaped(directory.rstrip('/'))}/{names}" for directory in asked for names in ("*", ".*")]
        argv = ["unsquashfs", "-max-depth", str(depth + 1), "-lls", str(image), *patterns]
        result = shell.run(argv, check=False)
        if result.status != 0 and "-max-depth" not in result.stdout + result.stderr and _is_usage(result):
            return _parsed(image, shell.run(["unsquashfs", "-lls", str(image)], check=False))
        listings = _parsed(image, result)  # directories on the way are in it too, each with one name only
        found.update({directory: listings.get(directory, {}) for directory in asked})
    return found


def _is_usage(result: Result) -> bool:
    return "SYNTAX" in result.stdout + result.stderr


def _parsed(image: Path, result: Result) -> dict[str, Listing]:
    if result.status != 0:
        broken(image, f"unsquashfs cannot list it: {words(result)}")
    found: dict[str, Listing] = {}
    last: tuple[str, str] | None = None
    # Only "\n" ends a line: names may hold what str.splitlines takes for more ends.
    for line in result.stdout.split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            if last is not None and line:  # the rest of a name that holds a newline: such names are left out
                found[last[0]].pop(last[1], None)
                last = None
            continue
        kind = _KINDS.get(match[1], "other")
        path, target = _link(match[3], int(match[2])) if kind == "link" else (match[3], "")
        directory, _, name = path.rpartition("/")
        last = (directory or "/", name) if name else None
        if last is not None:
            found.setdefault(last[0], {})[name] = DirectoryEntry(kind, int(match[2] or 0), target)
        if kind == "directory":
            found.setdefault(path or "/", {})  # it may be empty, and need not be asked for again
    return found


def _link(text: str, size: int) -> tuple[str, str]:
    """Split `path -> target`: the size of a link is the length of its target, even if names hold arrows."""
    raw = text.encode(errors="replace")
    if raw[-size - 4 : len(raw) - size] == b" -> ":
        return raw[: -size - 4].decode(), raw[len(raw) - size :].decode()
    path, _, target = text.partition(" -> ")
    return path, target


def extract(image: Path, shell: Shell, paths: Sequence[str]) -> dict[str, bytes]:
    """Read regular files of an image, by their real paths.

    They are unpacked into a private temporary directory, and read without following links: no file of this machine is
    read in their place. The caller has checked kind and size of each beforehand.
    Raises ImageError if one of them cannot be unpacked: the image is damaged.
    """
    if not paths:
        return {}
    with tempfile.TemporaryDirectory(prefix="launcher-image-") as temporary:
        root = Path(temporary) / "root"
        argv = ["unsquashfs", "-no-progress", "-no-xattrs", "-d", str(root), str(image), *map(_escaped, paths)]
        result = shell.run(argv, check=False, timeout_s=_EXTRACT_TIMEOUT_S)
        found = {path: content for path in paths if (content := _read_unpacked(root, path)) is not None}
    if missing := [path for path in paths if path not in found]:
        broken(image, f"{missing[0]} in it cannot be read: {words(result)}")
    return found


def _read_unpacked(root: Path, path: str) -> bytes | None:
    place = root
    try:
        place.chmod(0o700)
        for part in path.strip("/").split("/"):
            place = place / part
            mode = place.lstat().st_mode
            if stat.S_ISDIR(mode):
                place.chmod(0o700)  # against the image's permissions: it has to be read, and removed
        if not stat.S_ISREG(place.lstat().st_mode):
            return None
        place.chmod(0o600)
        return place.read_bytes()
    except OSError:
        return None  # the caller says that it cannot be read


def _escaped(path: str) -> str:
    """`path` for unsquashfs, which reads it as a pattern of extended wildcards."""
    return re.sub(r"([][\\*?!()|+@])", r"\\\1", path)
