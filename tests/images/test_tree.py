"""A root file system looks the same unpacked and packed, and nothing outside it is ever seen."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import DiskError, ImageError, MissingProgramError
from launcher._util.shell import LocalShell, Result
from launcher.images.inspect.tree import DirectoryTree, SquashTree, Tree, TreeEntry
from tests.images.trees import CountingShell, make_tree, needs_squashfs, pack
from tests.support.quick import few
from tests.support.recorder import Recorder

pytestmark = needs_squashfs

FILES = {
    "etc/environment": "A=1\n",
    "usr/lib/libx.so.1.2.3": "x",
    "usr/local/cuda-12.8/version.json": "{}",
    "usr/bin/sh": "#!",
    "srv/sp ace/x[1]/back\\slash": "odd",
    "srv/-dash/(+a|b)@!": "odd",
    "srv/.hidden/.file": "h",
    "srv/u\u00fcnter/\u2028": "utf-8",
    "big": "0" * 5000,
}
LINKS = {
    "lib": "usr/lib",
    "bin": "/usr/bin",
    "usr/lib/libx.so": "libx.so.1",
    "usr/lib/libx.so.1": "libx.so.1.2.3",
    "usr/local/cuda": "/etc/alternatives/cuda",
    "etc/alternatives/cuda": "/usr/local/cuda-12.8",
    "loop": "loop",
    "around": "./around/x",
    "dangling": "/no/such",
    "up": "../../../../etc/environment",
    "passwd": "/etc/passwd",
    "outside": "../../../../../../../../etc/passwd",
    "out": "/../../..",
    "arrow -> in": "etc -> environment",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "root", FILES, LINKS)


def both(root: Path, shell: LocalShell | None = None) -> list[Tree]:
    image = pack(root, root.with_suffix(".sqsh"))
    return [DirectoryTree(root), SquashTree(image, shell or LocalShell())]


def found(tree: Tree, *patterns: str) -> dict[str, str]:
    return {one.path: one.real_path for one in tree.find(patterns)}


@pytest.mark.parametrize("old", [False, True], ids=["as installed", "as 4.4"])
def test_links_are_followed_inside(root: Path, old: bool) -> None:
    for tree in both(root, CountingShell(old=old)):
        assert found(tree, "/lib/libx.so*", "/bin/sh", "/up") == {
            "/bin/sh": "/usr/bin/sh",
            "/lib/libx.so": "/usr/lib/libx.so.1.2.3",
            "/lib/libx.so.1": "/usr/lib/libx.so.1.2.3",
            "/lib/libx.so.1.2.3": "/usr/lib/libx.so.1.2.3",
            "/up": "/etc/environment",
        }
        assert tree.read(["/usr/local/cuda/version.json"], 10) == {"/usr/local/cuda/version.json": b"{}"}
        assert tree.find(["/loop", "/around", "/dangling", "/nothing", "/etc/environment/x", "/arrow*"]) == []
        assert tree.find(["/", "/usr/../etc"]) == [
            TreeEntry("/", "/", "directory", 0),
            TreeEntry("/usr/../etc", "/etc", "directory", 0),
        ]


@pytest.mark.parametrize("old", [False, True], ids=["as installed", "as 4.4"])
def test_odd_names_are_read(root: Path, old: bool) -> None:
    odd = [f"/{name}" for name in FILES if name.startswith("srv/")]
    for tree in both(root, CountingShell(old=old)):
        assert {path: text.decode() for path, text in tree.read(odd, 100).items()} == {p: FILES[p[1:]] for p in odd}
        assert found(tree, "/srv/*").keys() == {"/srv/sp ace", "/srv/-dash", "/srv/u\u00fcnter"}
        assert found(tree, "/srv/.*/.f*").keys() == {"/srv/.hidden/.file"}


def test_the_hosts_files_are_never_read(root: Path) -> None:
    for tree in both(root):
        assert tree.read(["/passwd", "/outside", "/out/etc/passwd", "/../../etc/passwd"], 1 << 20) == {}
        (root / "etc/passwd").write_text("the image's own")
    for tree in both(root):
        paths = ["/passwd", "/outside", "/out/etc/passwd"]
        assert set(tree.read(paths, 1 << 20).values()) == {b"the image's own"}


def test_large_files_and_what_is_not_a_file_are_left_out(root: Path) -> None:
    os.mkfifo(root / "fifo")
    if os.geteuid() == 0:
        os.mknod(root / "etc/device", 0o20666, os.makedev(1, 5))  # /dev/zero: endless where it is read
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 26)
    (root / "new\nline").touch()
    for tree in both(root):
        assert tree.read(["/fifo", "/etc/device", "/etc", "/big", "/sparse", "/etc/environment"], 4999).keys() == {
            "/etc/environment"
        }
        assert {one.path: one.kind for one in tree.find(["/fifo", "/new*"])} == {"/fifo": "other"}


def test_only_what_is_asked_for_is_listed(root: Path) -> None:
    shell = CountingShell()
    tree = both(root, shell)[1]
    tree.find(["/usr/local/cuda/version.json"])
    tree.find(["/usr/local/cuda*/*.json", "/etc/*"])
    listed = [argument for argv in shell.asked for argument in argv if argument.endswith("/*")]
    assert sorted(listed) == sorted(set(listed)), "nothing is asked for twice"
    assert "/srv/*" not in listed
    old = CountingShell(old=True)
    SquashTree(root.with_suffix(".sqsh"), old).find(["/usr/local/cuda/version.json", "/lib/*", "/srv/*/*", "/no/*"])
    whole = [argv for argv in old.asked if "-max-depth" not in argv]
    assert len(whole) == 1, "without -max-depth everything is listed, once"
    tree.read(["/etc/environment"], 10)
    before = len(shell.asked)
    assert tree.read(["/etc/environment", "/up"], 10) == {"/etc/environment": b"A=1\n", "/up": b"A=1\n"}
    assert len(shell.asked) == before


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_what_the_image_forbids_is_read_by_a_normal_user(root: Path) -> None:
    (root / "etc/environment").chmod(0)
    (root / "etc").chmod(0o100)
    ways = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]

    class User(LocalShell):
        """Unpacks as another user; the directory it unpacks into has to be that user's."""

        def run(self, argv: Sequence[str], **options: object) -> Result:
            if "-d" in argv:
                os.chown(Path(argv[argv.index("-d") + 1]).parent, 65534, 65534)
            return super().run([*ways, *argv], **options)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        image = pack(root, Path(directory) / "x.sqsh", "-all-root")
        image.chmod(0o644)
        assert SquashTree(image, User()).read(["/etc/environment"], 10) == {"/etc/environment": b"A=1\n"}


def test_damage_and_a_missing_program_are_distinguished(root: Path, tmp_path: Path) -> None:
    image = pack(root, tmp_path / "x.sqsh", "-noD", "-noI", "-no-fragments", "-noF")
    data = image.read_bytes()
    broken = tmp_path / "broken.sqsh"
    broken.write_bytes(data[:96] + bytes(len(data) - 96))
    with pytest.raises(ImageError, match="unsquashfs") as caught:
        SquashTree(broken, LocalShell()).read(["/etc/environment"], 10)
    assert caught.value.where == str(broken)
    with pytest.raises(MissingProgramError):
        SquashTree(image, Recorder()).find(["/etc"])
    with pytest.raises(DiskError):
        DirectoryTree(tmp_path / "missing").find(["/etc"])


NAMES = st.sampled_from(["a", "b", "c.so", "c.so.1", ".d", "e e"])
TARGETS = st.lists(st.one_of(NAMES, st.just(".."), st.just(".")), min_size=1, max_size=4).map("/".join)
ENTRIES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    st.one_of(st.binary(max_size=20), st.just(None), st.tuples(st.sampled_from(["", "/"]), TARGETS).map("".join)),
    max_size=14,
)
PATTERNS = st.lists(
    st.lists(st.one_of(NAMES, st.sampled_from(["*", "c.*", "?", "[ab]", "..", ".*"])), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    min_size=1,
    max_size=5,
)


def _build(root: Path, entries: dict[str, bytes | str | None]) -> None:
    for name, content in entries.items():
        place = root / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.mkdir(exist_ok=True)
            elif isinstance(content, bytes):
                place.write_bytes(content)
            else:
                place.symlink_to(content)
        except OSError:  # two entries that exclude each other, or one below a link
            continue


@settings(max_examples=few(60), deadline=None)
@given(ENTRIES, PATTERNS)
def test_packed_and_unpacked_look_the_same(entries: dict[str, bytes | str | None], patterns: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "jail" / "root"
        root.mkdir(parents=True)
        _build(root, {name: content for name, content in entries.items() if not _below_a_link(name, entries)})
        unpacked, packed = both(root)
        here = unpacked.find(patterns)
        assert here == packed.find(patterns)
        paths = [one.path for one in here]
        assert unpacked.read(paths, 10) == packed.read(paths, 10)
        for one in here:
            assert any(fnmatch.fnmatch(one.path, pattern) for pattern in patterns)
            assert not (root / one.real_path.lstrip("/")).is_symlink()


def _below_a_link(name: str, entries: dict[str, bytes | str | None]) -> bool:
    parts = name.split("/")
    return any(isinstance(entries.get("/".join(parts[:count])), str) for count in range(1, len(parts)))


IN_A_CHROOT = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
for path in sys.argv[2:]:
    print(os.path.realpath(path) if os.path.exists(path) else "")
"""


@settings(max_examples=few(25), deadline=None)
@given(ENTRIES)
def test_links_lead_where_the_kernel_leads(entries: dict[str, bytes | str | None]) -> None:
    if os.geteuid() != 0 or not hasattr(os, "chroot"):
        pytest.skip("needs root: asks the kernel in a chroot")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        root.mkdir()
        _build(root, {name: content for name, content in entries.items() if not _below_a_link(name, entries)})
        paths = sorted(f"/{path.relative_to(root)}" for path in root.rglob("*"))
        tree = DirectoryTree(root)
        asked = {path: next((one.real_path for one in tree.find([path])), None) for path in paths}
        done = subprocess.run(
            [sys.executable, "-c", IN_A_CHROOT, str(root), *paths], capture_output=True, text=True, check=True
        )
        kernel = dict(zip(paths, (line or None for line in done.stdout.split("\n")), strict=False))
        assert asked == kernel
