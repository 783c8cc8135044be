"""Files that are written whole or line by line."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.contract import files
from launcher.contract.process import ProcessIdentity, group_of, is_alive, start_ticks_of


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write_text(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_json_lines_of_many_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"

    def write(number: int) -> None:
        for line in range(50):
            files.append_line(path, {"writer": number, "line": line, "text": "x" * 500}, sync=line == 0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = files.read_lines(path)
    assert len(found) == 200
    assert [each["line"] for each in found if each["writer"] == 2] == list(range(50))


def test_lines_that_are_not_objects_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n[1]\n\xff\n{"b": 2}\n{"cut')
    assert files.read_lines(path) == [{"a": 1}, {"b": 2}]
    assert files.read_lines(tmp_path / "none") == []
    with pytest.raises(OSError):
        files.read_lines(tmp_path)


def test_numbers_that_json_lacks_are_null_by_name(tmp_path: Path) -> None:
    files.append_line(tmp_path / "x", {"loss": float("nan"), "norm": 1.0, "most": float("inf")})
    assert json.loads((tmp_path / "x").read_text()) == {
        "loss": None,
        "norm": 1.0,
        "most": None,
        "not_finite": ["loss", "most"],
    }


def test_objects_alone_are_read(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a" / "x.json", {"path": Path("/x")})
    assert files.read_object(tmp_path / "a" / "x.json") == {"path": "/x"}
    files.write_text(tmp_path / "y.json", "[1]")
    assert files.read_object(tmp_path / "y.json") is files.read_object(tmp_path / "none.json") is None


def test_a_process_differs_from_a_later_one_with_its_number() -> None:
    me = ProcessIdentity.of_this_process()
    assert ProcessIdentity.from_dict({**me.to_dict(), "who": "rank 0"}) == me
    assert ProcessIdentity.from_dict({"pid": 1}) is None
    assert me.has_ended() is False
    later = ProcessIdentity(me.host, me.boot_id, me.pid_namespace, me.pid, me.start_ticks + 1)
    assert later.has_ended() is True
    assert ProcessIdentity("another", me.boot_id, me.pid_namespace, me.pid, me.start_ticks + 1).has_ended() is None
    assert is_alive(me.pid, me.start_ticks)
    assert not is_alive(me.pid, me.start_ticks + 1)
    assert group_of(me.pid) == os.getpgrp()


def test_a_process_that_was_not_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child_ticks = start_ticks_of(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        me = ProcessIdentity.of_this_process()
        assert ProcessIdentity(me.host, me.boot_id, me.pid_namespace, child.pid, child_ticks or 0).has_ended() is True
        assert not is_alive(child.pid, None)
        assert group_of(child.pid) is None
