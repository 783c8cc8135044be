"""The squashfs file format: the superblock, and whether unsquashfs can open what follows it.

The superblock is read here and not from the output of `unsquashfs -s`: that program says nothing of a file that is cut
off behind its superblock, neither names another version of the format nor refuses tables that lie outside the file, and
is often not installed on a login node, where a truncated image should be noticed all the same.

Sources: Linux `Documentation/filesystems/squashfs.rst`, `fs/squashfs/squashfs_fs.h` and `fs/squashfs/super.c`.
"""

import struct
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from launcher._util.errors import DiskError, ImageError
from launcher._util.shell import Result, Shell

REMEDY: Final = "Make it again with `launcher image import ...` or `launcher image build`."
PADDING: Final = 4096
"""mksquashfs pads a file to a multiple of so many bytes: less may follow the file system."""

_MAGIC = 0x73717368  # "hsqs"
_COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_WITH_LEVEL = {"gzip": 0, "zstd": 0, "lzo": 4}  # where the level stands in the compressor's options
_COMPRESSOR_OPTIONS = 0x0400  # flag: a block with the compressor's options follows the superblock
_LAYOUT = struct.Struct("<5I6H8Q")
_NO_TABLE = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Superblock:
    """The superblock, the first 96 bytes."""

    inodes: int
    made_at_s: int
    """When the file system was made or last appended to; seconds since 1970."""

    block_size: int
    """Bytes of an uncompressed block of data."""

    compressor: str
    level: int | None
    """Of the compression; None where the file does not say (the compressor's default)."""

    bytes_used: int
    """Length of the file system: a shorter file is truncated."""

    file_bytes: int
    """Length of the file when it was read."""

    @property
    def compression(self) -> str:
        """Return `zstd:3`, or `zstd` where the level is not known."""
        return self.compressor if self.level is None else f"{self.compressor}:{self.level}"


def read_superblock(path: Path) -> Superblock:
    """Read and check the superblock of an image.

    Raises ImageError if the file is missing, unreadable, truncated, damaged or not a squashfs 4.0 (with what it looks
    like), DiskError if the disk fails.
    """
    try:
        if path.is_dir():
            broken(path, "it is a directory", "A directory becomes an image with `launcher image import DIRECTORY`.")
        if path.exists() and not path.is_file():
            broken(path, "it is not a regular file")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _checked_superblock(path, file, size)
    except (FileNotFoundError, NotADirectoryError):
        target = path.readlink() if path.is_symlink() else None
        broken(
            path, f"it is a symbolic link to {target}, which does not exist" if target else "the file does not exist"
        )
    except PermissionError:
        broken(path, "you may not read it", "Ask its owner for `chmod a+r`, and for `a+x` on the directories above it.")
    except OSError as error:
        raise DiskError(f"cannot read the image: {error.strerror}", where=str(path)) from error


def made_at(superblock: Superblock) -> str:
    """Return when the file system was made, as manifests write it: UTC, ISO 8601."""
    return datetime.fromtimestamp(superblock.made_at_s, timezone.utc).isoformat(timespec="seconds")


def _checked_superblock(path: Path, file: BinaryIO, size: int) -> Superblock:
    head = file.read(512)
    if len(head) < 4 or int.from_bytes(head[:4], "little") != _MAGIC:
        broken(path, f"it is not a squashfs image: {looks_like(head)}")
    if len(head) < _LAYOUT.size:
        broken(path, f"it is truncated: {size} bytes are less than a superblock")
    values = _LAYOUT.unpack_from(head)
    _, inodes, made, block_size, _, number, block_log, flags, ids, major, minor = values[:11]
    root_inode, used, *tables = values[11:]
    if (major, minor) != (4, 0):
        newer = "newer than this launcher and than the kernel's 4.0" if major > 4 else "not the 4.0 of the kernel"
        broken(path, f"its squashfs format is {major}.{minor}, {newer}")
    if used > size:
        broken(path, f"it is truncated: {size} bytes of {used}")
    # fs/squashfs/super.c refuses the same: a block of 4 KiB to 1 MiB, and tables that lie inside the file system.
    _, _, inode_table, directory_table, *_ = tables
    sane = (
        number in _COMPRESSORS
        and 12 <= block_log <= 20
        and block_size == 1 << block_log
        and inodes > 0
        and ids > 0
        and used >= _LAYOUT.size
        and all(_LAYOUT.size <= table < used or table == _NO_TABLE for table in tables)
        and _LAYOUT.size <= inode_table < directory_table < used
        and root_inode >> 16 < directory_table - inode_table
        and root_inode & 0xFFFF < 8192
    )
    if not sane:
        broken(path, "its superblock is damaged")
    compressor = _COMPRESSORS[number]
    level = _level(compressor, head) if flags & _COMPRESSOR_OPTIONS else None
    return Superblock(inodes, made, block_size, compressor, level, used, size)


def _level(compressor: str, head: bytes) -> int | None:
    """Return the compression level, from the block of options that follows the superblock (after a u16: its length)."""
    if compressor not in _WITH_LEVEL:
        return None
    start = _LAYOUT.size + 2 + _WITH_LEVEL[compressor]
    return int(struct.unpack_from("<i", head, start)[0]) if len(head) >= start + 4 else None


def looks_like(head: bytes) -> str:
    """Return what a file that starts with `head` looks like: 512 bytes are enough."""
    text = head.lstrip().lower()
    known: tuple[tuple[bool, str], ...] = (
        (not head, "it is empty"),
        (not any(head), "it begins with zeros, as a download or a copy that was never finished does"),
        (
            text.startswith((b"<!doctype", b"<html", b"<?xml")),
            "it is a web page, perhaps an error of a registry or a proxy",
        ),
        (text.startswith((b"{", b"[")), "it is JSON, perhaps an error of a registry"),
        (b"SIF_MAGIC" in head[:64], "it is a SIF image of Apptainer"),
        (head.startswith(b"\x7fELF"), "it is a program (ELF)"),
        (head[257:262] == b"ustar", "it is a tar archive: import it with `launcher image import FILE.tar`"),
        (
            head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")),
            "it is compressed, perhaps a tar archive",
        ),
        (head.startswith(b"sqsh"), "it is a squashfs of the other byte order, which no kernel since 2.6.29 reads"),
        (head.startswith(b"#!"), "it is a script"),
        (head.startswith(b"version https://git-lfs"), "it is the pointer of a file in Git LFS, not the file"),
        (_is_text(head), "it is text"),
    )
    return next((words for fits, words in known if fits), f"it begins with the bytes {head[:8].hex(' ')}")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in head) and head.isascii()


def examine(path: Path, shell: Shell) -> None:
    """Check that unsquashfs can read the superblock and the tables of an image.

    Raises ImageError with its message, MissingProgramError without unsquashfs. Takes milliseconds for any size.
    """
    # No file has this path: nothing is listed, but all tables and the root directory are read.
    for argv in (["unsquashfs", "-s", str(path)], ["unsquashfs", "-lls", str(path), "/.launcher-looks"]):
        result = shell.run(argv, check=False)
        if result.status != 0:
            broken(path, f"unsquashfs cannot read it: {words(result)}")


def words(result: Result) -> str:
    """Return the last lines of unsquashfs' output, as one line."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return (
        " / ".join(line.strip() for line in lines[-3:] if line.strip())[:400] or f"status {result.status}, no message"
    )


def broken(path: Path, problem: str, hint: str = REMEDY) -> NoReturn:
    """Refuse an image. Raises ImageError."""
    raise ImageError(f"the image cannot be used: {problem}", where=str(path), hint=hint)
