"""Packing a root file system into a squashfs file with mksquashfs.

Facts: mksquashfs(1). Unless its output is a terminal it shows progress once in a hundred blocks at best, so it is given
one. It stores a file that it cannot read as an empty one, and says so, unless `-exit-on-error` is given.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import CommandError, ImageError
from launcher._util.line_splitter import LineSplitter
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.images.build.layout import Layout
from launcher.images.store import space

DEFAULT_COMPRESSION = "zstd:3"

RULES = 1
"""The version of what is below: raise it where a tree becomes another image. Images of earlier rules are not reused."""

BLOCK_BYTES = 1 << 20
"""The largest block of the format: training images are large files that are read from start to end."""

_EXCLUDED = ("dev/*", "proc/*", "sys/*", "run/*", "tmp/*", ".dockerenv")
"""Left out of every image. Device files also keep a normal user from unpacking an image: unsquashfs(1)."""

_OF_ENGINES = {".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "run/.containerenv"}
"""Files that engines put into each container, with the time at which they made it."""

_LEVELS = {
    "zstd": range(1, 23),
    "gzip": range(1, 10),
    "lzo": range(1, 10),
    "lz4": None,
    "lz4hc": None,
    "xz": None,
    "none": None,
}
_WORST = {"none": 1.02}
_LATEST = (1 << 32) - 1
"""The latest time that the format holds, in seconds since the epoch."""
_RATIO = 0.75
"""Of the tree's bytes, required free before packing: programs and libraries usually shrink to half or less."""

_FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class Compression:
    """How the blocks of an image are compressed: the compressor and, where it has any, the level."""

    kind: str
    level: int | None = None

    def __str__(self) -> str:
        return self.kind if self.level is None else f"{self.kind}:{self.level}"

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of mksquashfs."""
        if self.kind == "none":
            return ("-comp", "gzip", "-noI", "-noD", "-noF", "-noX")
        if self.kind == "lz4hc":
            return ("-comp", "lz4", "-Xhc")
        level = () if self.level is None else ("-Xcompression-level", str(self.level))
        return ("-comp", self.kind, *level)


def parse_compression(text: str | None) -> Compression:
    """Parse `zstd:3`, `lz4`, `none`; None is the default. Raises ImageError with the list of compressors."""
    kind, colon, level = (text or DEFAULT_COMPRESSION).partition(":")
    known = ", ".join(f"{name}[:{span[0]}-{span[-1]}]" if span else name for name, span in _LEVELS.items())
    if kind not in _LEVELS:
        raise ImageError(f"unknown compression {text!r}", where="--compression", hint=f"Use {known}.")
    span = _LEVELS[kind]
    if not colon:
        return Compression(kind, 3 if kind == "zstd" else None)
    if span is None or not level.isascii() or not level.isdigit() or int(level) not in span:
        raise ImageError(f"{kind} has no level {level!r}", where="--compression", hint=f"Use {known}.")
    return Compression(kind, int(level))


def processors() -> int:
    """Return how many CPUs this process may use; in a job, no more than the job has on this node."""
    mine = len(os.sched_getaffinity(0))
    job = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, min(mine, int(job)) if job.isdigit() else mine)


@dataclass(frozen=True)
class TreeMeasure:
    """What a tree's files come to: hard links counted once, unreadable ones not at all."""

    size_bytes: int = 0
    newest: int = 0
    """The latest time of change of a file, in seconds since the epoch, of those that engines write aside."""


def measure(root: Path) -> TreeMeasure:
    """Return the size of a tree and the time of its newest file."""
    seen: set[tuple[int, int]] = set()
    total, newest = 0, 0
    for directory, _, names in os.walk(root, onerror=None):
        place = os.path.relpath(directory, root)
        for name in names:
            try:
                found = (Path(directory) / name).lstat()
            except OSError:
                continue  # mksquashfs says what it cannot read
            if os.path.normpath(f"{place}/{name}") not in _OF_ENGINES:
                newest = max(newest, int(found.st_mtime))
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_size
    return TreeMeasure(total, min(newest, _LATEST))


def pack(
    root: Path, layout: Layout, output: Path, compression: Compression, shell: Shell, report: ProgressListener
) -> dict[str, str]:
    """Write `output`, a squashfs file of `root` with the files of `layout` in place of its own; return the tools.

    `root` is only read. The layout's files are written beside `output`, for mksquashfs. The same tree gives the same
    bytes: SOURCE_DATE_EPOCH where it is set, else the time of the newest file, becomes the time of the file system and
    the latest of any file in it (mksquashfs(1), ENVIRONMENT). Raises DiskError if there is too little space,
    CommandError with the message of mksquashfs.
    """
    report.stage(f"packing with {compression}")
    workspace = output.parent
    tree = measure(root)
    needed = int(tree.size_bytes * _WORST.get(compression.kind, _RATIO))
    space.require(workspace, needed, "the image")
    pseudo = layout.pseudo_files(root, workspace)
    argv = ["mksquashfs", str(root.resolve()), output.name, *compression.options]
    argv += ["-b", str(BLOCK_BYTES), "-all-root", "-noappend", "-exit-on-error", "-processors", str(processors())]
    argv += ["-pf", pseudo.name, "-wildcards", "-e", *_EXCLUDED, *layout.replaced(root)]

    def line(text: str) -> None:
        if (percent := re.search(r"\]\s+\d+/\d+\s+(\d+)%$", text)) is not None:
            report.progress(int(percent[1]), 100, "%")
        elif "Number of" not in text:
            report.line(text)

    lines = LineSplitter(line)
    env = {"SOURCE_DATE_EPOCH": str(tree.newest), **os.environ}
    with full_disk(workspace, needed):
        shell.stream(argv, lines, env=env, cwd=workspace, terminal=True)
    lines.end()
    return {"mksquashfs": tool_version(shell)}


@contextlib.contextmanager
def full_disk(directory: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the CommandError of a program that found the disk of `directory` full into a DiskError."""
    try:
        yield
    except CommandError as error:
        if (found := _FULL.search(error.message)) is None:
            raise
        number = errno.EDQUOT if "quota" in found[0] else errno.ENOSPC
        reason = OSError(number, os.strerror(number))
        raise space.disk_error(reason, directory, "write the image", needed=needed) from error


def tool_version(shell: Shell) -> str:
    """Return the version of mksquashfs, from `mksquashfs -version` (status 0 or 1, by version)."""
    words = shell.run(["mksquashfs", "-version"], check=False)
    found = re.search(r"version\s+(\S+)", words.stdout + words.stderr)
    return found[1] if found else "unknown"
