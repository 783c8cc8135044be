"""One view on a root file system: unpacked in a directory, or packed in a squashfs file.

Paths are absolute inside the image (`/etc/environment`). Symbolic links are followed inside it and never outside: an
absolute target starts at the image's root, and `..` stops there, as for a process in the container. Only the
directories on the way of what is asked for are listed: a large image is looked into as fast as a small one.
"""

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher._util.errors import DiskError
from launcher._util.shell import Shell
from launcher.images.inspect.unsquashfs import DirectoryEntry, Kind, Listing, extract, list_directories

_HOPS = 40  # links on the way to one file, as in the kernel
_WILD = ("*", "?", "[")
_UNKNOWN = "\ufffd"  # in place of bytes that are not UTF-8: such a name cannot be asked for


@dataclass(frozen=True)
class TreeEntry:
    """One file or directory of a root file system."""

    path: str
    """As it was asked for: the pattern, its wildcards filled in."""

    real_path: str
    """With every symbolic link followed."""

    kind: Kind
    """Never `link`: links are followed, and those that lead nowhere are not found."""

    size_bytes: int


class Tree(Protocol):
    """A root file system that can be read."""

    def find(self, patterns: Sequence[str]) -> list[TreeEntry]:
        """Return the files that match the patterns, sorted by path; `*`, `?` and `[...]` match within one component.

        Like a shell, `*` matches no name with a dot at its start.
        """
        ...

    def read(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return the contents of the regular files among `paths` (no patterns), by the paths asked for.

        Left out: missing files, files that are not regular, and files larger than `limit` bytes.
        """
        ...


class DirectoryTree:
    """A root file system in a directory. Raises DiskError where it cannot be read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lister = _Lister(lambda directories: {d: _scanned(root, d) for d in directories})

    def find(self, patterns: Sequence[str]) -> list[TreeEntry]:
        """Return the matching files; see `Tree.find`."""
        return _find(self._lister, patterns, wild=True)

    def read(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return contents; see `Tree.read`."""
        wanted = _readable(_find(self._lister, paths, wild=False), limit)
        return {path: _read_file(self._root, real_path) for path, real_path in wanted.items()}


class SquashTree:
    """A root file system in a squashfs file. Raises ImageError if it is damaged, MissingProgramError."""

    def __init__(self, image: Path, shell: Shell) -> None:
        self._image = image
        self._shell = shell
        self._lister = _Lister(lambda directories: list_directories(image, shell, directories))
        self._contents: dict[str, bytes] = {}

    def find(self, patterns: Sequence[str]) -> list[TreeEntry]:
        """Return the matching files; see `Tree.find`."""
        return _find(self._lister, patterns, wild=True)

    def read(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return contents; see `Tree.read`. One call of unsquashfs for all, none for files read before."""
        wanted = _readable(_find(self._lister, paths, wild=False), limit)
        self._contents |= extract(self._image, self._shell, sorted(set(wanted.values()) - self._contents.keys()))
        return {path: self._contents[real_path] for path, real_path in wanted.items()}


class _Listing(Protocol):
    def __call__(self, directories: Sequence[str], /) -> dict[str, Listing]: ...


class _Lister:
    """Listings of real directories, each read once."""

    def __init__(self, ask: _Listing) -> None:
        self._ask = ask
        self._known: dict[str, Listing] = {}

    def learn(self, directories: Iterable[str]) -> None:
        if new := sorted(set(directories) - self._known.keys()):
            self._known.update(self._ask(new))
            for directory in new:
                self._known.setdefault(directory, {})

    def __getitem__(self, directory: str) -> Listing:
        return self._known[directory]


@dataclass(frozen=True)
class _Step:
    """A walk that has reached the real directory `here` and still has to follow `rest`.

    Components of `rest` are marked: True for those of the question, which are shown and may hold wildcards, False for
    those of a link's target.
    """

    shown: str
    here: tuple[str, ...]
    rest: tuple[tuple[str, bool], ...]
    hops: int = 0

    @property
    def directory(self) -> str:
        return "/" + "/".join(self.here)


def _find(lister: _Lister, questions: Sequence[str], *, wild: bool) -> list[TreeEntry]:
    """Walk all questions side by side, one component a turn, so that each turn's directories are listed together."""
    found: dict[str, TreeEntry] = {}
    steps = [_Step("", (), _components(question, asked=True)) for question in questions]
    while steps:
        lister.learn(step.directory for step in steps if step.rest)
        following: list[_Step] = []
        for step in steps:
            if not step.rest:
                found[step.shown or "/"] = TreeEntry(step.shown or "/", step.directory, "directory", 0)
                continue
            for result in _advance(step, lister[step.directory], wild):
                if isinstance(result, TreeEntry):
                    found[result.path] = result
                else:
                    following.append(result)
        steps = following
    return [found[path] for path in sorted(found)]


def _components(path: str, *, asked: bool) -> tuple[tuple[str, bool], ...]:
    parts = path.split("/")
    if not parts[-1]:
        parts[-1] = "."  # `x/` is `x/.`: only a directory can be meant
    return tuple((part, asked) for part in parts if part)


def _advance(step: _Step, listing: Listing, wild: bool) -> Iterator[TreeEntry | _Step]:
    (part, asked), *others = step.rest
    rest = tuple(others)
    if part in (".", ".."):
        shown = f"{step.shown}/.." if asked and part == ".." else step.shown
        yield _Step(shown, step.here if part == "." else step.here[:-1], rest, step.hops)
        return
    for name in _matching(part, listing, wild and asked):
        shown = f"{step.shown}/{name}" if asked else step.shown
        entry = listing[name]
        if entry.kind == "directory":
            yield _Step(shown, (*step.here, name), rest, step.hops)
        elif entry.kind == "link" and step.hops < _HOPS:
            here = () if entry.target.startswith("/") else step.here
            yield _Step(shown, here, (*_components(entry.target, asked=False), *rest), step.hops + 1)
        elif entry.kind in ("file", "other") and not rest:
            yield TreeEntry(shown, f"{step.directory.rstrip('/')}/{name}", entry.kind, entry.size_bytes)


def _matching(part: str, listing: Listing, wild: bool) -> list[str]:
    if not (wild and any(character in part for character in _WILD)):
        return [part] if part in listing else []
    hidden = part.startswith(".")
    return [name for name in fnmatch.filter(listing, part) if hidden or not name.startswith(".")]


def _readable(found: Iterable[TreeEntry], limit: int) -> dict[str, str]:
    """Return the real path by the path asked for, of files that may be read."""
    return {
        one.path: one.real_path
        for one in found
        if one.kind == "file" and one.size_bytes <= limit and _UNKNOWN not in one.real_path
    }


def _scanned(root: Path, directory: str) -> Listing:
    """List a directory below `root`. Its components are real directories: the walk has followed the links itself."""
    place = root / directory.lstrip("/")
    try:
        with os.scandir(place) as entries:
            return {_text(entry.name): _entry(entry) for entry in entries if "\n" not in entry.name}
    except OSError as error:
        raise DiskError(f"cannot read the directory: {error.strerror}", where=str(place)) from error


def _entry(entry: "os.DirEntry[str]") -> DirectoryEntry:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(entry.path)  # noqa: PTH115 - a Path would drop the "/." that a directory needs
        return DirectoryEntry("link", status.st_size, _text(target))
    if stat.S_ISDIR(status.st_mode):
        return DirectoryEntry("directory", status.st_size)
    return DirectoryEntry("file" if stat.S_ISREG(status.st_mode) else "other", status.st_size)


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


def _read_file(root: Path, real_path: str) -> bytes:
    place = root / real_path.lstrip("/")
    try:
        with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except OSError as error:
        raise DiskError(f"cannot read the file: {error.strerror}", where=str(place)) from error
