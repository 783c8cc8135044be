"""Who uses which image."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import DiskError, ImageError
from launcher.images.store import trash
from launcher.images.store.store import Store
from launcher.images.store.uses import Use, files_of, forget_use, record_use, update_use, uses_of
from tests.images.locks import in_memory
from tests.images.stores import a_store, add, digest_of
from tests.support.limits import seconds
from tests.support.quick import few

USE = Use(
    "20260102-030405-abcd", "/runs/x/20260102-030405-abcd", "batch", "h100", "ada", "login1", 1000.0, None, 4711, 99
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = a_store(tmp_path / "images")
    add(made, "one", "a")
    return made


def test_a_use_is_recorded_completed_and_forgotten(store: Store) -> None:
    digest = f"sha256:{digest_of('one')}"
    assert uses_of(store, digest) == ()
    record_use(store, digest, USE)
    later = replace(USE, run_id="other", at=2000.0)
    record_use(store, digest.removeprefix("sha256:"), later)
    assert uses_of(store, digest) == (USE, later)
    update_use(store, digest, USE.run_id, job="123")
    update_use(store, digest, "other", pid=5, start_ticks=6)
    assert uses_of(store, digest) == (replace(USE, job="123"), replace(later, pid=5, start_ticks=6))
    record_use(store, digest, USE)  # the next attempt of the same run
    assert len(uses_of(store, digest)) == 2
    forget_use(store, digest, USE.run_id)
    forget_use(store, digest, "never there")
    assert [use.run_id for use in uses_of(store, digest)] == ["other"]
    assert [path.name for path in files_of(store, digest)] == ["other.json"]


def test_a_use_of_what_is_not_there_is_refused_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(ImageError, match="is not in the store") as error:
        record_use(store, digest_of("two"), USE)
    assert "make it again" in str(error.value.hint)
    assert not (store.root / "uses" / digest_of("two")).exists()
    with pytest.raises(ImageError, match="not a SHA-256 digest"):
        record_use(store, "latest", USE)
    with pytest.raises(ImageError, match="no use of this image"):
        update_use(store, digest_of("one"), "unknown", job="1")


def test_an_image_that_a_killed_gc_left_in_the_trash_comes_back(store: Store) -> None:
    image = store.image_path(digest_of("one"))
    trash.put_in(store, image)
    assert store.entries() == []
    record_use(store, digest_of("one"), USE)
    assert [entry.path for entry in store.entries()] == [image]


def test_an_image_that_gc_has_decided_about_does_not(store: Store) -> None:
    image = store.image_path(digest_of("one"))
    moved = trash.put_in(store, image)
    moved.rename(moved.with_suffix(".deleted"))
    with pytest.raises(ImageError, match="is not in the store"):
        record_use(store, digest_of("one"), USE)
    assert list((store.root / ".trash").iterdir()) == []


def test_a_run_waits_for_the_gc_that_has_its_image_in_hand(store: Store) -> None:
    image = store.image_path(digest_of("one"))
    with store.lock("store").held():
        moved = trash.put_in(store, image)
        thread = threading.Thread(target=record_use, args=(store, digest_of("one"), USE))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert uses_of(store, digest_of("one")) == (USE,)  # which gc reads now
        moved.rename(image)
    thread.join(seconds(10))
    assert uses_of(store, digest_of("one")) == (USE,)


def test_files_that_hold_no_use_do_not_count(store: Store) -> None:
    record_use(store, digest_of("one"), USE)
    directory = store.root / "uses" / digest_of("one")
    (directory / "broken.json").write_text('{"run_id": "x"')
    (directory / ".left-by-a-crash.json.1234").write_text("x")
    assert uses_of(store, digest_of("one")) == (USE,)
    assert len(files_of(store, digest_of("one"))) == 2


@settings(max_examples=few(50))
@given(run_id=st.text(min_size=1))
def test_any_run_id_gets_a_file_of_its_own(tmp_path_factory: pytest.TempPathFactory, run_id: str) -> None:
    with in_memory(tmp_path_factory.getbasetemp()) as directory:
        store = a_store(directory / "images")
        image = store.image_path("0" * 64)
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
        record_use(store, "0" * 64, replace(USE, run_id=run_id))
        record_use(store, "0" * 64, replace(USE, run_id="plain"))
        assert {use.run_id for use in uses_of(store, "0" * 64)} >= {run_id, "plain"}
        assert {path.parent for path in store.root.rglob("*.json")} == {store.root / "uses" / ("0" * 64)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take its own rights away from itself")
def test_a_store_that_only_others_may_write_is_said_to_be_so(store: Store) -> None:
    (store.root / "uses").write_text("no directory")
    with pytest.raises(DiskError, match="cannot record the use of the image"):
        record_use(store, digest_of("one"), USE)
