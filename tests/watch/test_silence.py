"""A run without a sign of life for ten iteration times is silent; nothing more is said than is known."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer, Job, State
from launcher.watch.run_state import read_run_state
from launcher.watch.status import RunStatus, judge
from launcher.watch.status_table import row
from tests.watch.run_dirs import iteration, make_attempt, make_run, submitted

SEEN = {
    "rank": 1,
    "pid": 7,
    "phase": "saving",
    "steps": 4,
    "silent_s": 40.0,
    "state": "T",
    "stack": [],
    "collectives": [],
}
RECORD: dict[str, Any] = {"version": 1, "time": 1.0, "node": 0, "host": "n1", "limit_s": 300.0, "silent_s": 40.0}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs" / "small" / "0001", *submitted())


def status(run: RunDirectory, age_s: float, *, seconds: float = 2.0, number: int = 2) -> RunStatus:
    """The status of a run whose last line was written so long ago."""
    lines = (iteration(1, seconds=seconds), iteration(number, seconds=seconds))
    make_attempt(run, metrics=lines, written=time.time() - age_s)
    job = Job("12", State.RUNNING)
    return judge(read_run_state(run), job, Answer({"12": job}, time.time()))


def test_a_run_that_is_silent(run: RunDirectory) -> None:
    found = status(run, 60)
    assert found.run_state.silent_s == pytest.approx(60, abs=5)
    assert "silent: no iteration for 0:01:0" in found.detail
    assert "ten take 0:00:20; it may save, evaluate, or hang" in row(found, time.time())[-1]
    assert (found.to_dict()["phase"], found.to_dict()["seconds_left"]) == ("running", None)
    assert not list(run.latest.glob(".clock*")), "what asked for the file system's time is removed"


@pytest.mark.parametrize(
    ("age_s", "seconds", "number"),
    [(15, 2.0, 2), (4, 0.01, 2), (60, 2.0, 20)],
    ids=["fewer than ten iterations", "a few seconds of short ones", "after the last iteration"],
)
def test_a_run_that_is_not(run: RunDirectory, age_s: float, seconds: float, number: int) -> None:
    found = status(run, age_s, seconds=seconds, number=number)
    assert (found.run_state.silent_s, "silent" in found.detail) == (None, False)


def test_before_the_first_iteration_nothing_is_known(run: RunDirectory) -> None:
    make_attempt(run, timeline=({"event": "imports", "time": 1.0},), written=time.time() - 900)
    assert read_run_state(run).silent_s is None


def test_where_the_file_system_does_not_say_the_time_nothing_is_said(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of this machine and of the node may differ."""

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refused)
    assert status(run, 60).run_state.silent_s is None


def test_a_login_node_whose_clock_is_ahead(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line was written just now, five minutes ago by this machine's clock."""
    ahead = time.time() + 300
    monkeypatch.setattr("launcher.watch.run_state.time.time", lambda: ahead)
    assert status(run, 300).run_state.silent_s is None


@pytest.mark.parametrize(("stage", "said"), [("suspected", True), ("ended", True), ("busy", False)])
def test_what_the_watchdogs_have_seen(run: RunDirectory, stage: str, said: bool) -> None:
    status(run, 60)
    stacks = run.path / "attempts/000/stacks"
    stacks.mkdir()
    (stacks / "node-0000.json").write_text(json.dumps({**RECORD, "stage": stage, "ranks": [SEEN], "notes": []}))
    job = Job("12", State.RUNNING)
    found = judge(read_run_state(run), job, Answer({"12": job}, time.time()))
    assert ("silent: rank 1 is stopped by a signal while saving after 4 steps" in found.detail) == said
    assert (f"stacks in {stacks}" in found.detail) == said
