"""The run directory: attempts, atomic writes, the journal."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher._util.errors import DiskError, RequestError
from launcher.rundir import Journal, RunDirectory
from launcher.rundir.run_directory import read_json, write_atomically


def test_attempts_are_numbered_and_latest_points_at_the_newest(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.latest_attempt() is None
    assert [run.begin_attempt().name for _ in range(3)] == ["000", "001", "002"]
    assert (tmp_path / "latest").resolve() == (tmp_path / "attempts" / "002")
    latest = run.latest_attempt()
    assert latest is not None
    assert latest.log(7) == tmp_path / "attempts/002/logs/rank-0007.log"


def test_attempts_begun_at_once_are_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: RunDirectory(tmp_path).begin_attempt().name, range(8)))
    assert sorted(names) == [f"{number:03d}" for number in range(8)]


def test_a_directory_without_a_plan_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no plan\.json"):
        RunDirectory.at(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        write_atomically(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]
    assert path.read_text() == "old"


def test_reading_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert read_json(path) is None
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    for broken in ("{", "[1]"):
        path.write_text(broken)
        with pytest.raises(DiskError, match=r"result\.json"):
            read_json(path)


def test_the_journal_survives_a_line_that_a_crash_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submit_intent", token="t")
    with journal.path.open("a") as file:
        file.write('{"event": "subm')
    assert [event["event"] for event in journal.read()] == ["submit_intent"]
    journal.write("submitted", job="5")
    assert [event["event"] for event in journal.read()] == ["submit_intent", "submitted"]


def test_journal_events_are_found_by_kind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.last("submitted") is None
    for job in ("1", "2"):
        journal.write("submitted", job=job)
    journal.write("launched", pid=3)
    last = journal.last("submitted", "cancelled")
    assert last is not None
    assert last["job"] == "2"
    assert all(json.loads(line)["time"] > 0 for line in journal.path.read_text().splitlines())
