"""Numbered files of a directory: one process begins a generation, and heartbeats are watched by the watcher's clock.

What locks and downloads make of them is in tests/images/test_lock.py and tests/job/test_fetch_shared_download.py.
"""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from launcher.contract.generations import HeartbeatWatcher, begin, file_of, newest_number, read


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_generation_replaces_those_below_and_what_belongs_to_them(tmp_path: Path) -> None:
    assert newest_number(tmp_path) == 0
    assert newest_number(tmp_path / "missing") == 0
    assert begin(tmp_path, 1, "one")
    (tmp_path / "00000001.end").write_text("done")
    (tmp_path / "lock").write_text("")
    assert begin(tmp_path, 2, "two", mode=0o640, exact_mode=True)
    assert names(tmp_path) == ["00000002", "lock"]
    assert file_of(tmp_path, 2).stat().st_mode & 0o777 == 0o640
    heartbeat, content = read(tmp_path, 2)
    assert (heartbeat, content) == (file_of(tmp_path, 2).stat().st_mtime_ns, b"two")


def test_of_many_at_once_one_begins_a_generation(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    won: list[bool] = []

    def take() -> None:
        start.wait()
        won.append(begin(tmp_path, 7, "mine"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_number_below_the_highest_is_given_up_again(tmp_path: Path) -> None:
    """A process that was stopped between its two listings creates a number that was removed meanwhile."""
    assert begin(tmp_path, 5, "five")
    assert not begin(tmp_path, 3, "late")
    assert not begin(tmp_path, 5, "twice")
    assert names(tmp_path) == ["00000005"]
    assert read(tmp_path, 5)[1] == b"five"


def test_a_generation_that_cannot_be_written_leaves_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begin(tmp_path, 1, "one")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        begin(tmp_path, 2, "two")
    assert names(tmp_path) == ["00000001"]


def test_clocks_of_other_machines_do_not_matter() -> None:
    watcher = HeartbeatWatcher(beat_s=10, silent_s=0.05)
    for heartbeat in (10**18, 5, 10**19, 0):  # each one a sign of life, however old it claims to be
        time.sleep(0.06)
        assert not watcher.is_silent(1, heartbeat)
    time.sleep(0.06)
    assert watcher.is_silent(1, 0)


def test_a_watcher_that_was_stopped_itself_goes_on_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watcher = HeartbeatWatcher(beat_s=5, silent_s=90)
    assert not watcher.is_silent(1, 1)
    now += 3600
    assert not watcher.is_silent(1, 1)
    for _ in range(17):
        now += 5
        silent = watcher.is_silent(1, 1)
    assert silent
