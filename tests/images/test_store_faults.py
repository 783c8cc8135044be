"""The store under builders that race, die at any moment, and fill the disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher._util.errors import DiskError
from launcher.images.store.building import start_building
from launcher.images.store.lock import LeaseLostError
from tests.images.locks import QUICK, ROOT, in_memory, script
from tests.images.stores import MANIFEST, a_store, add, whole
from tests.support.limits import seconds

pytestmark = pytest.mark.slow

needs_mksquashfs = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="needs mksquashfs: apt-get install squashfs-tools"
)


def run(module: str, *arguments: object) -> str:
    """What a module of the tests prints in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-W", "ignore", "-m", f"tests.images.{module}", *map(str, arguments)]
    done = subprocess.run(argv, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=seconds(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Something to pack: a few megabytes that take a moment."""
    top = tmp_path / "tree"
    noise = random.Random(1)  # noqa: S311
    for number in range(20):
        (top / f"d{number}").mkdir(parents=True)
        (top / f"d{number}" / "file").write_bytes(noise.randbytes(100_000) + bytes(100_000))
    return top


@needs_mksquashfs
@pytest.mark.parametrize(("kind", "far"), [("kernel", "near"), ("lease", "far")])
def test_eight_builders_make_one_image_once(tmp_path: Path, tree: Path, kind: str, far: str) -> None:
    log = tmp_path / "log"
    answers = run("packing", "together", tmp_path / "images", tree, log, kind, far).splitlines()
    assert log.read_text() == "built\n"
    (entry,) = whole(a_store(tmp_path / "images"))
    assert entry.names == ("tree+latest",)
    assert sorted(answers) == [*[f"found {entry.digest}"] * 7, f"made {entry.digest}"]
    assert subprocess.run(["unsquashfs", "-s", str(entry.path)], stdout=subprocess.DEVNULL).returncode == 0


@needs_mksquashfs
def test_builders_killed_at_ten_random_moments(tmp_path: Path, tree: Path) -> None:
    store, log = a_store(tmp_path / "images"), tmp_path / "log"
    run("packing", "killed", store.root, tree, log)
    assert log.read_text().count("built\n") >= 6
    run("packing", "together", store.root, tree, log, "kernel", "near")
    (entry,) = whole(store)
    assert store.find("tree:latest") == entry
    for _ in range(50):  # what an orphaned mksquashfs still wrote goes with the next build
        if list(store.partial.iterdir()) == []:
            break
        time.sleep(0.1)
        add(store, "x")
    assert list(store.partial.iterdir()) == []


@pytest.mark.parametrize("work", ["build", "gc"])
def test_killed_before_every_single_step(tmp_path: Path, work: str) -> None:
    with in_memory(tmp_path) as directory:
        steps = [json.loads(line) for line in run("stepping", directory, work).splitlines()]
    assert [step for step in steps if not step["good"]] == []
    *deaths, last = steps
    assert {step["status"] for step in deaths} == {signal.SIGKILL}
    assert last["status"] == 0
    names = {step["step"].partition(" ")[0] for step in deaths}
    expected = {"build": {"rename", "symlink", "fsync", "mkdir", "open"}, "gc": {"rename", "unlink", "open"}}[work]
    assert expected <= names
    assert len(deaths) > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("spare_kb", range(0, 40, 4))
def test_a_full_disk_at_every_step(small_disk: Path, spare_kb: int) -> None:
    store = a_store(small_disk / "images")
    old = add(store, "old", "latest")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - spare_kb * 1024)
    try:
        new = add(store, "new", "latest", key="key")
    except DiskError as error:
        assert "No space left" in error.message
        assert "are free" in error.message
        assert error.hint is not None
        assert whole(store) == [old]
        assert store.find("latest") == old
        assert list(store.partial.glob("*")) == []
    else:
        assert spare_kb >= 8
        assert store.find("latest") == new
    filler.unlink()
    assert add(store, "new", "latest", key="key").problem is None
    assert len(whole(store)) == 2
    assert list(store.partial.iterdir()) == []


def test_an_image_that_does_not_fit_is_refused_with_the_missing_bytes(small_disk: Path, tmp_path: Path) -> None:
    store = a_store(small_disk / "images")
    source = tmp_path / "large.sqsh"
    source.write_bytes(bytes(10**6))
    with (
        pytest.raises(DiskError, match=r"the image needs 976\.6 KiB, .* are missing"),
        start_building(store, "x") as building,
    ):
        building.add(source, MANIFEST, ["large"])
    assert source.exists()
    assert whole(store) == []
    assert list(store.partial.iterdir()) == []


def test_who_lost_the_lock_publishes_nothing(tmp_path: Path) -> None:
    """A builder that was stopped for too long meets, right before it would publish, that another has taken over."""
    near = a_store(tmp_path / "images", kernel_locks=False)
    code = """
import sys
from pathlib import Path
from launcher._util.errors import OutsideError
from launcher.images.store.building import start_building
from tests.images.stores import MANIFEST, a_store
store = a_store(Path(sys.argv[1]), host="node-b", kernel_locks=False)
with start_building(store, "key") as building:
    (building.workspace / "x").write_text("stale")
    print("stopped", flush=True)
    sys.stdin.readline()
    try:
        building.add(building.workspace / "x", MANIFEST, ["latest"])
    except OutsideError as error:
        print(type(error).__name__, flush=True)
"""
    stopped = script(code, near.root, stdin=-1)
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == "stopped\n"
    stopped.send_signal(signal.SIGSTOP)
    with start_building(near, "key") as building:
        assert building.finished is None
        (building.workspace / "x").write_text("fresh")
        stopped.send_signal(signal.SIGCONT)
        # Its workspace is gone, too: another machine's, whose lock was free.
        assert stopped.communicate("\n", timeout=seconds(20))[0].strip() in (LeaseLostError.__name__, "DiskError")
        entry = building.add(building.workspace / "x", MANIFEST, ["latest"])
    assert whole(near) == [entry]
    assert QUICK.stale_s < 2
