"""The superblock, and what a file looks like that has none."""

import gzip
import os
import random
import shutil
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from launcher._util.errors import ImageError, MissingProgramError
from launcher._util.shell import LocalShell
from launcher.images.inspect.squashfs import examine, looks_like, read_superblock
from launcher.images.inspect.tree import DirectoryTree, SquashTree
from tests.images.trees import make_tree, needs_squashfs, pack
from tests.support.recorder import Recorder

pytestmark = needs_squashfs

FILES: dict[str, str | bytes] = {
    "etc/environment": "A=1\n",
    "usr/bin/sh": os.urandom(30_000),
    "usr/lib/x.so": b"x" * 300_000,
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("squashfs")
    return pack(make_tree(directory / "root", FILES), directory / "x.sqsh", "-comp", "zstd", "-Xcompression-level", "3")


@pytest.mark.parametrize(
    ("options", "compression"),
    [
        (("-comp", "zstd", "-Xcompression-level", "3"), "zstd:3"),
        (("-comp", "zstd"), "zstd"),
        (("-comp", "gzip", "-Xcompression-level", "6"), "gzip:6"),
        (("-comp", "lzo", "-Xalgorithm", "lzo1x_999", "-Xcompression-level", "7"), "lzo:7"),
        (("-comp", "lz4"), "lz4"),
        (("-comp", "xz"), "xz"),
        (("-comp", "lzo", "-noD", "-exit-on-error"), "lzo"),  # as enroot packs by default
    ],
)
def test_the_superblock_says_what_mksquashfs_was_asked_for(
    tmp_path: Path, options: tuple[str, ...], compression: str
) -> None:
    image = pack(
        make_tree(tmp_path / "root", FILES), tmp_path / "x.sqsh", *options, "-b", "262144", "-mkfs-time", "1700000000"
    )
    found = read_superblock(image)
    assert (found.compression, found.block_size, found.made_at_s) == (compression, 262144, 1_700_000_000)
    assert found.inodes == len(FILES) + len({"/", "etc", "usr", "usr/bin", "usr/lib"})
    assert 0 <= image.stat().st_size - found.bytes_used < 4096
    examine(image, LocalShell())


def test_an_image_of_nothing_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    image = pack(tmp_path / "root", tmp_path / "x.sqsh", "-nopad")
    assert read_superblock(image).inodes == 1
    examine(image, LocalShell())


def test_every_truncation_is_noticed(image: Path, tmp_path: Path) -> None:
    data = image.read_bytes()
    used = read_superblock(image).bytes_used
    some = random.Random(1)  # noqa: S311
    lengths = {*range(100), *(some.randrange(used) for _ in range(200)), used - 1}
    short = tmp_path / "short.sqsh"
    for length in sorted(lengths):
        short.write_bytes(data[:length])
        with pytest.raises(ImageError) as caught:
            read_superblock(short)
        assert str(short) in str(caught.value)
        assert ("empty" if length == 0 else "text" if length < 4 else "truncated") in caught.value.message
    short.write_bytes(data[:used])  # only the padding is gone
    assert replace(read_superblock(short), file_bytes=0) == replace(read_superblock(image), file_bytes=0)


def _archive(directory: Path) -> bytes:
    with tarfile.open(directory / "x.tar", "w") as archive:
        archive.add(__file__, "test.py")
    return (directory / "x.tar").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (bytes(10_000), "zeros"),
        (b"<!DOCTYPE html>\n<html><title>401 Unauthorized</title>", "web page"),
        (b"\n <HTML>", "web page"),
        (b'{"errors":[{"code":"UNAUTHORIZED"}]}', "JSON"),
        (b"#!/bin/sh\n", "script"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"404 page not found\n", "text"),
        (gzip.compress(b"x", mtime=0), "compressed"),
        (b"sqsh" + bytes(200), "byte order"),
        (b"\x89PNG\r\n\x1a\n", "89 50 4e 47"),
    ],
)
def test_something_else_is_called_by_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.sqsh"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        read_superblock(file)
    assert caught.value.hint


def test_real_archives_and_programs_are_called_by_their_names(tmp_path: Path) -> None:
    assert "tar archive" in looks_like(_archive(tmp_path)[:512])
    assert "program" in looks_like(Path("/proc/self/exe").read_bytes()[:512])


@pytest.mark.parametrize(("major", "minor", "words"), [(5, 0, "newer"), (4, 1, "format is 4.1"), (3, 1, "not the 4.0")])
def test_another_version_of_the_format(image: Path, tmp_path: Path, major: int, minor: int, words: str) -> None:
    data = bytearray(image.read_bytes())
    struct.pack_into("<HH", data, 28, major, minor)
    (tmp_path / "x.sqsh").write_bytes(data)
    with pytest.raises(ImageError, match=words):
        read_superblock(tmp_path / "x.sqsh")


def _opened(image: Path) -> dict[str, bytes] | None:
    """The files that matter, or None where the image is refused."""
    try:
        read_superblock(image)
        examine(image, LocalShell())
        return SquashTree(image, LocalShell()).read([f"/{name}" for name in FILES], 1 << 20)
    except ImageError:
        return None


@pytest.mark.parametrize("bit", [0, 7])
def test_a_damaged_superblock_is_refused_or_does_no_harm(image: Path, tmp_path: Path, bit: int) -> None:
    good = _opened(image)
    assert good is not None
    data = image.read_bytes()
    damaged = tmp_path / "x.sqsh"
    harmless = set()
    for position in range(96):
        damaged.write_bytes(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
        found = _opened(damaged)
        assert found in (None, good), f"byte {position} changes what is read"
        if found is not None:
            harmless.add(position)
    # the time, flags, counts and tables (of export, of extended attributes) that nothing here needs
    assert not harmless & {*range(4), *range(12, 16), 20, 21, 22, 23, *range(28, 32), *range(44, 48)}
    assert {8, 9, 10, 11} <= harmless, "the time of making changes nothing"


def test_links_directories_and_devices(image: Path, tmp_path: Path) -> None:
    (tmp_path / "good.sqsh").symlink_to(image)
    assert read_superblock(tmp_path / "good.sqsh").inodes
    (tmp_path / "bad.sqsh").symlink_to("missing.sqsh")
    with pytest.raises(ImageError, match=r"symbolic link to missing\.sqsh"):
        read_superblock(tmp_path / "bad.sqsh")
    with pytest.raises(ImageError, match="does not exist"):
        read_superblock(tmp_path / "none.sqsh")
    with pytest.raises(ImageError, match="does not exist"):
        read_superblock(image / "below.sqsh")
    with pytest.raises(ImageError, match="directory"):
        read_superblock(tmp_path)
    os.mkfifo(tmp_path / "fifo.sqsh")
    with pytest.raises(ImageError, match="not a regular file"):
        read_superblock(tmp_path / "fifo.sqsh")


def test_without_unsquashfs_nothing_is_called_good(image: Path) -> None:
    with pytest.raises(MissingProgramError):
        examine(image, Recorder())


def test_a_program_that_dies_is_an_error(image: Path, tmp_path: Path) -> None:
    dying = tmp_path / "bin" / "unsquashfs"
    dying.parent.mkdir()
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)

    class Dying(LocalShell):
        def run(self, argv, **options):  # type: ignore[no-untyped-def]
            return super().run([str(dying), *argv[1:]], **options)

    with pytest.raises(ImageError, match="139"):
        examine(image, Dying())


def test_a_whole_debian_is_read_as_it_was_packed(debian: Path, image_file: Path) -> None:
    paths = ["/bin/sh", "/usr/bin/python3", "/etc/os-release", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/passwd"]
    packed = SquashTree(image_file, LocalShell()).read(paths, 1 << 24)
    assert packed == DirectoryTree(debian).read(paths, 1 << 24)
    assert packed["/bin/sh"][:4] == b"\x7fELF"
    assert shutil.which("unsquashfs")
