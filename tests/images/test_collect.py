"""gc takes what nothing needs, and nothing else, even if a run begins in between."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher._util.errors import ImageError
from launcher.images.store import collect as gc
from launcher.images.store import trash, workspace
from launcher.images.store.building import start_building
from launcher.images.store.collect import GcResult, collect
from launcher.images.store.owner import Owner
from launcher.images.store.store import Store
from launcher.images.store.uses import Use, record_use, uses_of
from tests.images.locks import node, script
from tests.images.stores import a_store, add, digest_of, whole
from tests.support.limits import seconds

DAY = 86400.0
USE = Use("run-1", "/runs/x/run-1", "batch", "h100", "ada", "login1", 0.0, "123", 4711, 99)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path / "images")


def aged(store: Store, content: str, days: float, *names: str) -> str:
    """Add an image that came into the store so many days ago."""
    entry = add(store, content, *names)
    then = time.time() - days * DAY
    for path in (entry.path, entry.path.with_suffix(".json")):
        os.utime(path, (then, then))
    return digest_of(content)


def over(_: Use) -> bool:
    return False


def contents(store: Store) -> list[str]:
    return sorted(entry.path.read_text() for entry in whole(store))


def reasons(done: GcResult) -> dict[str, str]:
    return {each.entry.path.stem: each.reason for each in done.kept}


def test_images_go_by_age_name_and_use(store: Store) -> None:
    aged(store, "old", 40)
    young = aged(store, "young", 2)
    named = aged(store, "named", 40, "latest", "other")
    used = aged(store, "used", 40)
    queued = aged(store, "queued", 40)
    unknown = aged(store, "unknown", 40)
    now = time.time()
    record_use(store, used, replace(USE, run_id="recent", at=now - 3 * DAY))
    record_use(store, queued, replace(USE, run_id="queued", at=now - 35 * DAY))
    record_use(store, unknown, replace(USE, run_id="unknown", at=now - 35 * DAY, job=None))
    live = {"recent": False, "queued": True, "unknown": None}
    done = collect(store, older_than_s=30 * DAY, is_live=lambda use: live[use.run_id])
    assert contents(store) == ["named", "queued", "unknown", "used", "young"]
    (gone,) = done.removed
    assert gone.digest == f"sha256:{digest_of('old')}"
    assert gone.reason == "no name, neither added nor used for 40 days"
    assert done.freed_bytes == gone.size_bytes == 3
    assert reasons(done) == {
        young: "it was added or used 2 days ago",
        named: "it has a name: latest, other",
        used: "it was added or used 3 days ago",
        queued: "run queued of ada (job 123, h100) needs it",
        unknown: "it is not known whether run unknown of ada (process 4711 on login1) is over",
    }


def test_names_count_unless_they_are_included(store: Store) -> None:
    aged(store, "old", 40, "a", "b")
    aged(store, "older", 50, "c")
    record_use(store, digest_of("older"), USE)
    done = collect(store, older_than_s=30 * DAY, is_live=lambda _: True, keep_names=False)
    assert [each.names for each in done.removed] == [("a", "b")]
    assert contents(store) == ["older"]
    assert store.names() == {"c": digest_of("older")}
    assert store.find("a") is None


def test_a_dry_run_says_the_same_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        aged(store, str(number), 40 * number)
    record_use(store, digest_of("2"), USE)
    ended = script("")
    ended.communicate()
    me = Owner.of_this_process()
    left = workspace.make(store.partial, "ab12", replace(me, pid=ended.pid, start_ticks=1), 0o700)
    (left / "rootfs").write_bytes(bytes(10**5))

    def listing() -> list[tuple[str, float]]:
        quiet = (path for path in store.root.rglob("*") if ".locks" not in path.parts)
        return sorted((str(path), path.lstat().st_ino) for path in quiet)

    before = listing()
    now = time.time()
    planned = collect(store, older_than_s=30 * DAY, is_live=over, dry_run=True, now=now)
    assert listing() == before
    done = collect(store, older_than_s=30 * DAY, is_live=over, now=now)
    assert planned == done
    assert [each.path for each in done.removed][-1] == left
    assert {each.reason for each in done.removed if each.digest is None} == {"its builder is gone"}
    assert done.freed_bytes > 10**5
    assert not left.exists()
    assert contents(store) == ["0"]


def test_plain_files_and_strangers_names_stay(store: Store) -> None:
    aged(store, "old", 40)
    for name in ("cloudai.sqsh", "notes.txt"):
        (store.root / name).write_text("theirs")
        os.utime(store.root / name, (0, 0))
    (store.images / "stray.sqsh").write_text("theirs")
    collect(store, older_than_s=0, is_live=over, keep_names=False)
    assert contents(store) == []
    assert sorted(path.name for path in store.root.iterdir() if path.is_file()) == ["cloudai.sqsh", "notes.txt"]
    assert (store.images / "stray.sqsh").exists()


def test_notes_of_finished_runs_age_out(store: Store) -> None:
    named = aged(store, "named", 40, "latest")
    now = time.time()
    for run_id, days in (("old", 40.0), ("new", 1.0), ("live", 50.0)):
        record_use(store, named, replace(USE, run_id=run_id, at=now - days * DAY))
        for path in (store.root / "uses" / named).iterdir():
            if path.stem == run_id:
                os.utime(path, (now - days * DAY,) * 2)
    collect(store, older_than_s=30 * DAY, is_live=lambda use: use.run_id == "live")
    assert [use.run_id for use in uses_of(store, named)] == ["live", "new"]
    collect(store, older_than_s=-1, is_live=over)
    assert uses_of(store, named) == ()
    assert list((store.root / "uses").iterdir()) == []


def test_an_unreadable_note_keeps_the_image(store: Store) -> None:
    old = aged(store, "old", 40)
    record_use(store, old, USE)
    (note,) = (store.root / "uses" / old).iterdir()
    note.write_text("{")
    done = collect(store, older_than_s=0, is_live=over)
    assert "cannot be read" in reasons(done)[old]
    assert contents(store) == ["old"]


def test_a_use_that_comes_while_gc_has_the_image_in_hand_saves_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between every two steps of gc a run records its use: it has the image afterwards, or is refused."""
    outcomes = []
    for moment in range(1, 12):
        mine = a_store(store.root.with_name(f"images-{moment}"))
        digest = aged(mine, "old", 40, "latest")
        rival = threading.Thread(target=lambda mine=mine, digest=digest: outcomes.append(_use(mine, digest)))
        calls = 0

        def before(step: Callable[..., object], rival: threading.Thread = rival, moment: int = moment) -> object:
            def wrapped(*args: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == moment:
                    rival.start()
                    rival.join(0.1)  # it may have to wait until gc is through
                return step(*args, **options)

            return wrapped

        with monkeypatch.context() as patch:
            for module, name in ((trash, "put_in"), (trash, "delete"), (workspace, "remove_tree"), (gc, "files_of")):
                patch.setattr(module, name, before(getattr(module, name)))
            done = collect(mine, older_than_s=0, is_live=lambda _: True, keep_names=False)
        if calls < moment:
            break
        rival.join(seconds(10))
        there = mine.by_digest(digest) is not None
        assert outcomes[-1] is there
        assert there is (done.removed == ())
        whole(mine)
    assert {True, False} <= set(outcomes)
    assert len(outcomes) > 5


def _use(store: Store, digest: str) -> bool:
    try:
        record_use(store, digest, USE)
    except ImageError:
        return False
    return True


RACE = """
import sys
from pathlib import Path
from launcher._util.errors import ImageError
from launcher.images.store.uses import Use, record_use
from tests.images.stores import a_store, digest_of
store = a_store(Path(sys.argv[1]), host="node-b")
print("ready", flush=True)
for line in sys.stdin:
    content = line.strip()
    try:
        use = Use(content, "/runs/x", "allocation", "h100", "ada", "login1", 0.0, None, 1, 1)
        record_use(store, digest_of(content), use)
        print("mine", flush=True)
    except ImageError:
        print("gone", flush=True)
"""


def test_gc_against_a_run_of_another_process_many_times(store: Store) -> None:
    run = script(RACE, store.root, stdin=subprocess.PIPE)
    assert run.stdin is not None
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    answers = []
    for number in range(15):
        digest = aged(store, str(number), 40)
        run.stdin.write(f"{number}\n")
        run.stdin.flush()
        time.sleep(number % 5 * 0.0005)
        done = collect(store, older_than_s=30 * DAY, is_live=lambda _: True)
        answers.append(run.stdout.readline().strip())
        there = store.by_digest(digest) is not None
        assert there is (answers[-1] == "mine")
        assert there is (f"sha256:{digest}" not in {each.digest for each in done.removed})
    run.communicate()
    assert len(whole(store)) == answers.count("mine")


def test_two_at_once_remove_each_image_once(store: Store) -> None:
    for number in range(8):
        aged(store, str(number), 40)
    done: list[GcResult] = []
    threads = [
        threading.Thread(target=lambda: done.append(collect(store, older_than_s=0, is_live=over))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds(30))
    assert len(done) == 2
    assert contents(store) == []
    assert sum(each.freed_bytes for each in done) == 8


def test_a_builder_that_adds_what_gc_takes_away_keeps_it(store: Store) -> None:
    """Adding the same content again while gc runs: the entry that the builder gets is there, with its name."""
    stop, failures = threading.Event(), []

    def collecting() -> None:
        while not stop.is_set():
            collect(store, older_than_s=-1, is_live=over)

    thread = threading.Thread(target=collecting)
    thread.start()
    for number in range(15):
        entry = add(store, "same", "latest", key=str(number))
        if store.find("latest") != replace(entry, added=getattr(store.find("latest"), "added", 0.0)):
            failures.append(number)
        (store.root / "latest.sqsh").unlink()
    stop.set()
    thread.join(seconds(30))
    assert failures == []


def test_live_builders_of_other_machines_are_left_alone_soon(tmp_path: Path) -> None:
    store = a_store(tmp_path / "images")
    with start_building(a_store(tmp_path / "images", host="node-b"), "key") as building:
        began = time.monotonic()
        assert collect(store, older_than_s=0, is_live=over).removed == ()
        assert time.monotonic() - began < 5
        assert building.workspace.is_dir()
    dead = workspace.make(store.partial, "ab12", node("node-c"), 0o700)
    (done,) = collect(store, older_than_s=0, is_live=over).removed
    assert done.path == dead


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    assert collect(a_store(tmp_path / "none"), older_than_s=0, is_live=over) == GcResult((), ())
    assert not (tmp_path / "none").exists()
