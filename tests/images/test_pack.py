"""Packing with the real mksquashfs."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from launcher._util.errors import CommandError, DiskError, ImageError
from launcher._util.shell import LocalShell, Result
from launcher.api.progress import Silent
from launcher.images.build import pack
from launcher.images.build.layout import Layout, bare_layout
from launcher.images.build.pack import Compression, measure, parse_compression, processors
from launcher.images.inspect.squashfs import read_superblock
from tests.images.test_build import Recorded, cat, listing
from tests.support.recorder import Recorder

pytestmark = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="needs mksquashfs: apt-get install squashfs-tools"
)


def pack_it(root: Path, output: Path, text: str = "zstd:1", layout: Layout | None = None) -> Path:
    output.parent.mkdir(exist_ok=True)
    pack.pack(root, layout or Layout({}), output, parse_compression(text), LocalShell(), Silent())
    return output


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "a tree"
    for name in ("bin", "dev", "proc", "sys", "run", "tmp", "etc", "opt/dev"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    (root / ".dockerenv").touch()
    os.link(root / "bin/file", root / "bin/again")
    return root


@pytest.mark.parametrize("text", ["zstd:3", "zstd:19", "gzip", "gzip:1", "lz4", "lz4hc", "lzo", "xz", "none"])
def test_each_compression_makes_an_image_of_its_kind(tree: Path, tmp_path: Path, text: str) -> None:
    (tree / "etc/zeros").write_bytes(bytes(5_000_000))
    (tree / "etc/text").write_text("all work and no play\n" * 100_000)
    image = pack_it(tree, tmp_path / "out/x.sqsh", text)
    superblock = read_superblock(image)
    assert superblock.compression.split(":")[0] in (
        text.split(":")[0].removesuffix("hc"),
        "gzip" if text == "none" else "-",
    )
    assert cat(image, "etc/text").startswith("all work")
    assert (image.stat().st_size > 2_000_000) == (text == "none")


def test_what_no_image_needs_is_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "etc/rc").write_text("old")
    layout = Layout({"etc/rc": "new $(x) 'y'\n", "etc/environment": "A=ä\n"}, ("/w/x y",))
    image = pack_it(tree, tmp_path / "out/x.sqsh", layout=layout)
    files = listing(image)
    assert {"dev", "proc", "sys", "run", "tmp", "opt/dev/file", "w/x y", "bin/again"} <= files
    assert not files & {"dev/file", "proc/file", "sys/file", "run/file", "tmp/file", ".dockerenv"}
    assert cat(image, "etc/rc") == "new $(x) 'y'\n"
    assert cat(image, "etc/environment") == "A=ä\n"
    assert (tree / "etc/rc").read_text() == "old", "the tree is only read"
    done = subprocess.run(["unsquashfs", "-lln", str(image)], capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines() if "squashfs-root" in line} == {"0/0"}


def test_progress_comes_in_percent(tree: Path, tmp_path: Path) -> None:
    (tree / "etc/random").write_text(os.urandom(6_000_000).hex())
    (tmp_path / "out").mkdir()
    told = Recorded()
    pack.pack(tree, Layout({}), tmp_path / "out/x.sqsh", Compression("zstd", 15), LocalShell(), told)
    assert told.percent == sorted(told.percent)
    assert told.percent[-1] == 100
    assert len(told.percent) > 2, told.percent


@pytest.mark.parametrize("epoch", [None, "1700000000"])
def test_the_same_tree_gives_the_same_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str | None
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if epoch is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    past = time.time() - 100_000
    for path in tree.rglob("*"):
        os.utime(path, (past, past), follow_symlinks=False)
    digests = set()
    for number in range(2):
        # As an engine leaves it: its own files and the root directory have the time of the export.
        later = time.time() - 1000 * number
        (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
        for path in (tree / "etc/hosts", tree / "etc", tree):
            os.utime(path, (later, later))
        image = pack_it(tree, tmp_path / f"out{number}/x.sqsh", layout=bare_layout(tree))
        digests.add(hashlib.sha256(image.read_bytes()).hexdigest())
        assert read_superblock(image).made_at_s == int(epoch or past)
    assert len(digests) == 1


def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_file(tree: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    (tree / "etc/secret").write_text("x")
    (tree / "etc/secret").chmod(0)

    class OtherUser(LocalShell):
        def stream(self, argv, *rest, **options):  # type: ignore[no-untyped-def]
            return super().stream(["setpriv", "--reuid=65534", "--clear-groups", *argv], *rest, **options)

    # Outside pytest's own directory, which every pytest that starts closes to other users.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        copy, out = Path(directory, "a tree"), Path(directory, "out")
        shutil.copytree(tree, copy, symlinks=True)
        out.mkdir()
        out.chmod(0o777)
        with pytest.raises(CommandError, match="secret"):
            pack.pack(copy, Layout({}), out / "x.sqsh", parse_compression(None), OtherUser(), Silent())


def test_a_disk_too_small_is_named_before_and_while_packing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("launcher.images.store.space.free_bytes", lambda _: 3)
    with pytest.raises(DiskError, match="missing") as caught:
        pack_it(tree, tmp_path / "out/x.sqsh")
    assert str(tmp_path / "out") in str(caught.value)
    monkeypatch.undo()
    full = Result(("mksquashfs",), 1, "Write failed because No space left on device\nFATAL ERROR: Failed to write", "")
    with pytest.raises(DiskError, match="No space left"):
        pack.pack(
            tree,
            Layout({}),
            tmp_path / "out/x.sqsh",
            parse_compression(None),
            Recorder({"mksquashfs": full}),
            Silent(),
        )


def test_a_disk_that_is_really_full(tree: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    (tree / "etc/random").write_bytes(os.urandom(6_000_000))
    small = tmp_path / "small"
    small.mkdir()
    if (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(small)], capture_output=True).returncode
        != 0
    ):
        pytest.skip("needs to mount a tmpfs")
    try:
        with pytest.raises(DiskError, match=r"No space left on device|missing"):
            pack_it(tree, small / "x.sqsh")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Compression("zstd", 3)),
        ("lz4", Compression("lz4")),
        ("gzip:9", Compression("gzip", 9)),
        ("zstd", Compression("zstd", 3)),
    ],
)
def test_compressions(text: str | None, expected: Compression) -> None:
    assert parse_compression(text) == expected
    assert parse_compression(str(expected)) == expected


@pytest.mark.parametrize("text", ["zip", "zstd:0", "zstd:23", "zstd:", "zstd:fast", "lz4:3", "none:1", ":3"])
def test_wrong_compressions(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_compression(text)
    assert "zstd[:1-22]" in (caught.value.hint or "")


def test_a_job_uses_the_processors_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = len(os.sched_getaffinity(0))
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert processors() == mine
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert processors() == 1
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "9999")
    assert processors() == mine


def test_hard_links_count_once(tree: Path) -> None:
    before = measure(tree).size_bytes
    os.link(tree / "bin/file", tree / "bin/third")
    assert measure(tree).size_bytes == before > 0
