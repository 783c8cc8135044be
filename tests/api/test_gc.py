"""`launcher gc`: which checkpoints a policy removes, and what is never removed.

Tier: quick, about 3 s.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.contract.paths import MANIFEST
from launcher.rundir import RunDirectory
from launcher.rundir.checkpoints import (
    Policy,
    Protected,
    SavedCheckpoint,
    apply_policy,
    find_checkpoints,
    remove,
    sweep,
)
from launcher.watch.run_state import RunState
from launcher.watch.status import Phase, RunStatus
from tests.job.checkpoint_files import record_sums, unreadable, write_checkpoint
from tests.watch.run_dirs import make_run

STEPS = (10, 20, 30, 40, 50)


def checkpoint(iteration: int, *, whole: bool = True, sums: bool = True) -> SavedCheckpoint:
    return SavedCheckpoint(iteration, Path(f"iter_{iteration:07d}"), 100, 3, "", whole, whole and sums)


def kept(found: list[SavedCheckpoint], policy: Policy, protected: Protected | None = None) -> list[int]:
    return [one.iteration for one in apply_policy(found, policy, protected or Protected()) if one.keep]


@pytest.mark.parametrize(
    ("policy", "protected", "expected"),
    [
        (Policy(1), Protected(), [50]),
        (Policy(2), Protected(), [40, 50]),
        (Policy(9), Protected(), [10, 20, 30, 40, 50]),
        (Policy(1, 20), Protected(), [20, 40, 50]),
        (Policy(1), Protected(after=30), [30, 40, 50]),
        (Policy(1), Protected(after=50), [50]),
        (Policy(1), Protected(iterations=frozenset([10])), [10, 50]),
    ],
)
def test_a_policy_keeps_the_last_and_multiples_and_what_is_protected(
    policy: Policy, protected: Protected, expected: list[int]
) -> None:
    assert kept([checkpoint(step) for step in STEPS], policy, protected) == expected


def test_the_newest_with_sums_stays_and_what_is_not_whole_does_not_count() -> None:
    found = [checkpoint(10), checkpoint(20), checkpoint(30, sums=False), checkpoint(40, whole=False)]
    assert kept(found, Policy(1)) == [20, 30]
    assert kept([checkpoint(10, whole=False), checkpoint(20, whole=False)], Policy(1)) == [10, 20]
    assert kept([], Policy(1)) == []
    assert kept(found, Policy(1), Protected(after=50)) == [20, 30, 40], "of a live run it may be a save in flight"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that is over, with five whole checkpoints with sums."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    monkeypatch.setattr("launcher.api.locate.find_run_root", lambda *_: tmp_path)
    made = make_run(tmp_path / "small" / "1")
    for step in STEPS:
        record_sums(made.path, write_checkpoint(made.checkpoints, step))
    in_phase(monkeypatch, Phase.STOPPED)
    return made


def in_phase(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    """Let the status of every run be this."""

    def status_of(runs: Any, _shell: Any) -> Any:
        path = runs[0].path
        return [RunStatus(RunState(path, "small", "1", "batch", "c", "r", 2, None), phase, "as the test says")], None

    monkeypatch.setattr("launcher.watch.status.status_of", status_of)


def steps(run: RunDirectory) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.checkpoints.glob("iter_*"))


def collect(run: RunDirectory, *options: str) -> int:
    return main(["gc", str(run.path), "--keep-last", "1", *options])


def test_sizes_are_listed_and_only_yes_removes(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect(run, "--keep-every", "20", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert steps(run) == [*STEPS]
    assert "nothing was removed; --yes removes 2 of 5 checkpoints" in err
    assert [(one["iteration"], one["keep"] is None, one["removed"]) for one in found["checkpoints"]] == [
        (10, True, False),
        (20, False, False),
        (30, True, False),
        (40, False, False),
        (50, False, False),
    ]
    size = sum(path.stat().st_size for path in (run.checkpoints / "iter_0000010").iterdir())
    assert found["checkpoints"][0]["bytes"] == size
    assert collect(run, "--keep-every", "20", "--yes", "--json") == 0
    out, err = capsys.readouterr()
    assert steps(run) == [20, 40, 50]
    assert [one["iteration"] for one in json.loads(out)["checkpoints"] if one["removed"]] == [10, 30]
    assert err.index("10  ") < err.index("removed 2 of 5"), "sizes first"
    assert sorted(path.name for path in run.checkpoints.iterdir() if not path.name.startswith("iter_")) == [
        "latest_checkpointed_iteration.txt",
        "latest_train_state.pt",
    ]


def test_a_terminal_is_asked_and_only_what_was_listed_goes(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [False, True]
    monkeypatch.setattr("launcher.cli.output.can_ask", lambda: True)
    monkeypatch.setattr("launcher.cli.output.ask_yes", lambda _question: answers.pop(0))
    assert collect(run) == 0
    assert steps(run) == [*STEPS] and "nothing was removed" in capsys.readouterr().err
    assert collect(run) == 0
    assert steps(run) == [50] and "removed 4 of 5 checkpoints" in capsys.readouterr().err

    def meanwhile(_question: str) -> bool:
        record_sums(run.path, write_checkpoint(run.checkpoints, 70))
        return True

    record_sums(run.path, write_checkpoint(run.checkpoints, 60))
    monkeypatch.setattr("launcher.cli.output.ask_yes", meanwhile)
    assert collect(run) == 0
    assert steps(run) == [50, 60, 70], "60 was not listed as going"


def test_the_newest_with_right_sums_stays_where_a_newer_one_is_damaged(run: RunDirectory) -> None:
    shard = run.checkpoints / "iter_0000050" / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (run.checkpoints / "iter_0000040" / MANIFEST).unlink()
    assert collect(run, "--yes") == 0
    assert steps(run) == [30, 40], "40 is the newest whole one, 30 the newest with sums"


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED, Phase.STOPPING, Phase.LOST])
def test_of_a_live_run_the_newest_final_one_and_all_after_it_stay(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    in_phase(monkeypatch, phase)
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("40")
    in_flight = run.checkpoints / "iter_0000050"
    (in_flight / ".metadata").unlink()
    chosen(run, 20, saved_since=True)
    assert collect(run, "--yes") == 0
    assert steps(run) == [20, 40, 50]
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("garbage")
    assert collect(run, "--yes") == 0
    assert steps(run) == [20, 40, 50], "what is final is not known"


def chosen(run: RunDirectory, iteration: int, *, saved_since: bool) -> None:
    """Let the newest attempt have loaded a checkpoint, before or after the tracker was written."""
    choice = run.begin_attempt().checkpoint_choice
    choice.write_text(json.dumps({"iteration": iteration}))
    os.utime(choice, (1000, 1000))
    os.utime(run.checkpoints / "latest_checkpointed_iteration.txt", (2000, 2000) if saved_since else (500, 500))


def test_after_a_rollback_the_save_in_flight_stays(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    in_phase(monkeypatch, Phase.RUNNING)
    in_flight = run.checkpoints / "iter_0000030"
    (in_flight / ".metadata").unlink()
    chosen(run, 10, saved_since=True)
    assert collect(run, "--yes") == 0
    assert steps(run) == [10, 30, 50], "what is not whole may be written"
    write_checkpoint(run.checkpoints, 40)
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("50")
    chosen(run, 30, saved_since=False)
    assert collect(run, "--yes") == 0
    assert steps(run) == [30, 40, 50], "nor is a save final before the tracker was written"


@pytest.mark.parametrize("place", ["size", "sum", "structure"])
def test_nothing_is_removed_where_a_checkpoint_cannot_be_read(
    run: RunDirectory, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run.checkpoints / "iter_0000050"
    if place == "structure":
        (newest / MANIFEST).unlink()
    with monkeypatch.context() as patch:
        unreadable(patch, newest / "__0_0.distcp", "open" if place == "sum" else "stat")
        assert collect(run, "--yes") == 3
    err = capsys.readouterr().err
    assert "unknown which are whole" in err
    assert "__0_0.distcp" in err
    assert steps(run) == [*STEPS]
    assert collect(run, "--yes") == 0
    assert 50 in steps(run)


def test_what_the_run_removes_meanwhile_is_not_counted_and_markers_go_with_their_checkpoints(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, taken, killed = find_checkpoints(run)[:3]
    shutil.rmtree(gone.path)
    assert not remove(run, gone)
    run.set_aside_directory.mkdir()
    for one in (taken, killed):
        run.set_aside(one.iteration).write_text("{}")
    unlink = os.unlink

    def unlink_twice(name: Any, **more: Any) -> None:
        unlink(name, **more)
        if Path(name).name == "common.pt":
            unlink(name, **more)

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", unlink_twice)
        assert remove(run, taken)
    assert not run.set_aside(taken.iteration).exists()
    killed.path.rename(killed.path.with_name(f".removed.{killed.path.name}.77"))
    sweep(run)
    assert not run.set_aside(killed.iteration).exists()
    assert sorted(path.name for path in run.checkpoints.glob("*iter_*")) == ["iter_0000040", "iter_0000050"]


def test_nothing_is_removed_of_a_run_whose_state_is_unknown(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_phase(monkeypatch, Phase.UNKNOWN)
    assert collect(run, "--yes") == 2
    assert "unknown whether the run goes on" in capsys.readouterr().err
    assert steps(run) == [*STEPS]


def test_nothing_is_removed_outside_the_runs_directory(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run.checkpoints, elsewhere)
    (run.checkpoints / "iter_0000010").rename(tmp_path / "ten")
    (run.checkpoints / "iter_0000010").symlink_to(tmp_path / "ten")
    assert collect(run, "--yes") == 0
    assert steps(run) == [10, 50]
    assert (tmp_path / "ten" / "__0_0.distcp").exists(), "a link is not followed"
    shutil.rmtree(run.checkpoints)
    run.checkpoints.symlink_to(elsewhere)
    assert collect(run, "--yes") == 2
    assert "not in the run's directory" in capsys.readouterr().err
    run.checkpoints.unlink()
    plan = {**json.loads(run.plan_file.read_text()), "argv": {"overrides": []}}
    override = {"key": "checkpoint.save", "text": f"checkpoint.save={elsewhere}", "value": str(elsewhere)}
    run.plan_file.write_text(json.dumps({**plan, "argv": {"overrides": [override]}}))
    assert collect(run, "--yes") == 2
    assert "nothing is removed outside its own directory" in capsys.readouterr().err
    run.plan_file.write_text(json.dumps({**plan, "argv": {}}))
    assert collect(run, "--yes") == 3
    assert "does not show where it saves" in capsys.readouterr().err
    assert sorted(path.name for path in elsewhere.glob("iter_*")) == [f"iter_{step:07d}" for step in STEPS]


def test_what_a_killed_gc_has_left_is_removed_by_the_next(run: RunDirectory) -> None:
    left = run.checkpoints / ".removed.iter_0000005.77"
    write_checkpoint(left, 5)
    assert collect(run, "--yes") == 0
    assert not left.exists()
    assert steps(run) == [50]


@pytest.mark.parametrize("options", [("--keep-last", "0"), ("--keep-last", "1", "--keep-every", "0")])
def test_a_policy_that_keeps_nothing_is_refused(run: RunDirectory, options: tuple[str, ...]) -> None:
    assert main(["gc", str(run.path), *options, "--yes"]) == 2
    assert steps(run) == [*STEPS]
