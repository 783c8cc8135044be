"""`launcher rm` and `launcher gc --older-than`: what goes, what stays, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launcher._util import ownership
from launcher._util.errors import DiskError, RequestError
from launcher.api import remove as api
from launcher.cli.main import main
from launcher.contract.process import ProcessIdentity
from launcher.rundir import RunDirectory, removal
from launcher.rundir.finding import scan
from launcher.rundir.locks import locked, submit_lock, sweep_lock_file
from launcher.slurm.queue import State
from launcher.watch.run_state import read_run_state
from launcher.watch.status import Phase, RunStatus
from tests.watch.run_dirs import make_attempt, make_run

ROOT = Path(__file__).resolve().parents[2]
DAY_S = 86_400.0


def ended(root: Path, run_id: str, outcome: str = "finished", *, days_ago: float = 0.0) -> RunDirectory:
    """A local run that is over."""
    event = {"event": "launched", "backend": "local", "attempt": "000", "pid": 1, "host": "elsewhere"}
    run = make_run(root / "gpt" / run_id, event, backend="local")
    now = time.time() - days_ago * DAY_S
    result: dict[str, Any] = {"outcome": outcome, "reason": None, "started": now - 60, "ended": now}
    make_attempt(run, result=result)
    return run


def with_checkpoint(run: RunDirectory) -> RunDirectory:
    directory = run.checkpoints / "iter_0000010"
    directory.mkdir(parents=True)
    (directory / "weights").write_bytes(b"0" * 1000)
    return run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAUNCHER_CLUSTER", "local")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path / "runs"


def launcher(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_nothing_goes_without_a_yes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended(root, "20260101-000000-aaaa")
    assert main(["rm", "gpt"]) == 0
    err = capsys.readouterr().err
    assert "gpt/20260101-000000-aaaa  finished" in err and "nothing was removed; --yes removes 1 run" in err
    assert run.plan_file.exists()
    assert main(["rm", "gpt", "--yes"]) == 0
    assert "removed 1 run" in capsys.readouterr().err
    assert list((root / "gpt").iterdir()) == []
    assert main(["rm", "gpt", "--yes"]) == 2


def test_checkpoints_are_counted_apart_and_keep_their_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = with_checkpoint(ended(root, "20260101-000000-aaaa"))
    (found,) = launcher(capsys, "rm", "gpt", "--yes", status=1)["runs"]
    assert (found["checkpoint_bytes"], found["removed"]) == (1000, False)
    assert "--with-checkpoints" in found["keep"] and found["bytes"] > 1000
    assert run.plan_file.exists()
    (found,) = launcher(capsys, "rm", "gpt", "--yes", "--with-checkpoints")["runs"]
    assert found["removed"] and not run.path.exists()


def test_files_that_other_runs_share_are_not_counted(root: Path) -> None:
    run, other = ended(root, "20260101-000000-aaaa"), ended(root, "20260101-000001-bbbb")
    for each in (run, other):
        each.code.mkdir()
    (run.code / "big.py").write_bytes(b"#" * 5000)
    before = removal.size_of(run).total
    os.link(run.code / "big.py", other.code / "big.py")
    assert removal.size_of(run).total == before - 5000


def test_a_live_run_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    me = ProcessIdentity.of_this_process()
    event = {"event": "launched", "backend": "local", "attempt": "000", "pid": me.pid, "host": os.uname().nodename}
    live = make_run(root / "gpt" / "20260101-000000-aaaa", {**event, "group": os.getpgid(0)}, backend="local")
    queued = make_run(root / "gpt" / "20260101-000001-bbbb", {"event": "submit_unknown", "token": "t", "error": "x"})
    for run in (live, queued):
        (found,) = launcher(capsys, "rm", str(run.path), "--yes", "--with-checkpoints", "--lost", status=1)["runs"]
        assert found["keep"] and not found["removed"] and run.plan_file.exists(), found


LIVE = {"event": "submit_unknown", "token": "t", "error": "no answer"}


@pytest.mark.parametrize("how", ["checkpoints", "a link", "an argument"])
def test_checkpoints_that_a_live_run_loads_stay(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run, other = with_checkpoint(ended(root, "20260101-000000-aaaa")), ended(root, "20260101-000001-bbbb")
    (tmp_path / "base").symlink_to(run.checkpoints)
    place = str(tmp_path / "base" / "iter_0000010" if how == "a link" else run.checkpoints)
    override = {"key": "checkpoint.load", "text": f"checkpoint.load={place}", "value": place}
    request: dict[str, Any] = {"arguments": {}, "overrides": [override]}
    if how == "an argument":
        request = {"arguments": {"pretrained_checkpoint": place}, "overrides": []}
    user = make_run(root / "sft" / "20260101-000002-cccc", LIVE)
    user.argv_file.write_text(json.dumps(request))
    words = ("rm", str(run.path), str(other.path), "--yes", "--with-checkpoints")
    kept, gone = launcher(capsys, *words, status=1)["runs"]
    assert kept["keep"] == "sft/20260101-000002-cccc, which is unknown, names paths in it"
    assert gone["removed"] and run.plan_file.exists()
    user.journal.write("submit_refused", token="t", error="no")
    (found,) = launcher(capsys, *words[:2], *words[3:])["runs"]
    assert found["removed"]


def test_runs_of_a_sweep_that_goes_on_stay(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = ended(root, "20260101-000000-aaaa", days_ago=40), ended(root, "20260101-000001-bbbb", days_ago=40)
    (root / "gpt" / "sweep").mkdir()
    gc = ("gc", "--older-than", "30d", "--yes")
    with locked(sweep_lock_file(root / "gpt"), wait_s=0, busy=RuntimeError()):
        assert {one["keep"] for one in launcher(capsys, *gc)["runs"]} == {"its sweep goes on"}
    left = make_run(root / "gpt" / "20260101-000002-cccc", LIVE)
    assert {one["keep"] for one in launcher(capsys, *gc)["runs"]} == {"its sweep goes on"}
    left.journal.write("submit_refused", token="t", error="no")
    launcher(capsys, *gc)
    assert [one.path.exists() for one in (run, other, left)] == [False, False, True]


@pytest.mark.parametrize(
    ("state", "keep"),
    [
        (State.RUNNING, "its job 7 is running"),
        (State.COMPLETING, "its job 7 is completing"),
        (State.UNKNOWN, "it is unknown whether its job 7 goes on"),
        (State.FAILED, ""),
        (State.FORGOTTEN, ""),
    ],
)
def test_a_run_with_a_verdict_stays_while_its_job_goes_on(root: Path, state: State, keep: str) -> None:
    events = ({"event": "submit_intent", "token": "t"}, {"event": "submitted", "token": "t", "job": "7"})
    run = make_run(root / "gpt" / "20260101-000000-aaaa", *events)
    make_attempt(run, result={"outcome": "failed", "reason": None, "started": 1.0, "ended": 2.0})
    read = read_run_state(run)
    assert read.own_job
    status = RunStatus(read, Phase.FAILED, job="7", job_state=state.value)
    assert api._reason(run, status, api.NOTHING_MORE) == keep


def test_a_run_that_cannot_be_read_holds_up_no_other(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [ended(root, f"20260101-00000{number}-aaaa") for number in (0, 1)]
    size_of = removal.size_of

    def measured(run: RunDirectory) -> removal.RunSize:
        if run.path == runs[0].path:
            raise DiskError("cannot be read: Permission denied", where=str(run.path / "profiles"))
        return size_of(run)

    monkeypatch.setattr(removal, "size_of", measured)
    found = launcher(capsys, "gc", "--older-than", "0", "--yes")["runs"]
    kept = {one["run_dir"]: one["keep"] for one in found}
    assert kept == {
        str(runs[1].path): None,
        str(runs[0].path): f"{runs[0].path}/profiles cannot be read: Permission denied",
    }
    assert [run.path.exists() for run in runs] == [True, False]


def test_a_lost_run_goes_on_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"event": "launched", "backend": "local", "attempt": "000", "pid": 2**22 - 1, "host": os.uname().nodename}
    run = make_run(root / "gpt" / "20260101-000000-aaaa", event, backend="local")
    (found,) = launcher(capsys, "rm", "gpt", "--yes", status=1)["runs"]
    assert found["phase"] == "lost" and "--lost" in found["keep"]
    (found,) = launcher(capsys, "rm", "gpt", "--yes", "--lost")["runs"]
    assert found["removed"] and not run.path.exists()


def test_another_users_run_is_refused_and_left_out(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, own = ended(root, "20260101-000000-aaaa", days_ago=9), ended(root, "20260101-000001-bbbb", days_ago=9)
    monkeypatch.setattr(removal, "is_own", lambda path: path != other.path)
    assert main(["rm", str(other.path), "--yes"]) == 2
    assert "belongs to another user" in capsys.readouterr().err
    found = launcher(capsys, "gc", "--older-than", "1d", "--yes")
    assert found["of_other_users"] == 1 and [one["removed"] for one in found["runs"]] == [True]
    assert other.plan_file.exists() and not own.path.exists()


def test_whose_a_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ownership.is_own(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(ownership, "_uid_given_by", lambda _: 4711)
    assert not ownership.is_own(tmp_path)
    monkeypatch.setattr(
        ownership, "_uid_given_by", lambda _: tmp_path.stat().st_uid
    )  # a server names one owner for all
    assert ownership.is_own(tmp_path)


def test_gc_takes_runs_by_age_and_state(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, failed = (
        ended(root, "20260101-000000-aaaa", days_ago=40),
        ended(root, "20260101-000001-bbbb", "failed", days_ago=40),
    )
    new = ended(root, "20260101-000002-cccc", days_ago=1)
    found = launcher(capsys, "gc", "--older-than", "30d")
    assert [Path(one["run_dir"]).name[-4:] for one in found["runs"]] == ["bbbb", "aaaa"]
    launcher(capsys, "gc", "--older-than", "30d", "--state", "failed", "--yes")
    assert [one.path.exists() for one in (old, failed, new)] == [True, False, True]
    launcher(capsys, "gc", "--older-than", "30d", "--yes")
    assert [one.path.exists() for one in (old, new)] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "not stated what goes"),
        (("--keep-last", "2"), "for the checkpoints of one RUN"),
        (("gpt",), "how many checkpoints stay"),
        (("gpt", "--keep-last", "2", "--older-than", "3d"), "for runs, without RUN"),
        (("gpt", "--keep-last", "2", "--older-than", "0"), "for runs, without RUN"),
        (("--older-than", "1d", "--all", "--run-root", "here"), "--run-root names one directory of runs"),
        (("--older-than", "soon"), "is not an age"),
    ],
)
def test_both_uses_of_gc_are_kept_apart(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert main(["gc", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_that_goes_on_meanwhile_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ended(root, "20260101-000000-aaaa")

    def agree(_: api.Removal) -> bool:
        run.attempt(0).result_file.unlink()
        run.journal.write("submit_unknown", token="t", error="no answer")
        return True

    (found,) = api.remove_runs(["gpt"], confirm=agree).runs
    assert found.keep and not found.removed and run.plan_file.exists()


KILLED = """
import os, shutil, signal, sys
from launcher._util import older_python
from launcher.api import remove
from launcher.rundir import removal
def cut(path, on_error):
    os.unlink(path / "plan.json")
    os.kill(os.getpid(), signal.SIGKILL)
removal.remove_tree = cut
remove.remove_runs(["gpt"], confirm=lambda _: True)
"""


def test_a_launcher_that_waited_for_the_lock_finds_the_run_removed(root: Path) -> None:
    run = ended(root, "20260101-000000-aaaa")
    said: list[str] = []

    def resume() -> None:
        try:
            with submit_lock(run, wait_s=20):
                said.append("started")
        except RequestError as error:
            said.append(error.message)

    waiting = threading.Thread(target=resume)
    with submit_lock(run):
        waiting.start()
        time.sleep(0.3)
        assert removal.remove_run(run)
    waiting.join()
    assert said == ["the run was removed meanwhile"] and not run.path.exists()


def test_what_a_kill_leaves_is_seen_by_no_command_and_removed_by_the_next(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(root, "20260101-000000-aaaa")
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=root.parent, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert scan(root) == [] and [path.name[:9] for path in (root / "gpt").iterdir()] == [".removed."]
    ended(root, "20260101-000001-bbbb", days_ago=3)
    foreign = root / "gpt" / ".removed.not-ours"
    foreign.mkdir()
    launcher(capsys, "gc", "--older-than", "1d", "--yes")
    assert [path.name for path in (root / "gpt").iterdir()] == [foreign.name]


def test_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    run = ended(root, "20260101-000000-aaaa")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_text("kept")
    (run.path / "link").symlink_to(tmp_path / "elsewhere")
    assert api.remove_runs(["gpt"], confirm=lambda _: True).removed
    assert (tmp_path / "elsewhere" / "data").read_text() == "kept"
    real = ended(root, "20260101-000001-bbbb")
    (root / "linked").mkdir()
    (root / "linked" / "20260101-000002-cccc").symlink_to(real.path)
    with pytest.raises(RequestError, match="not a directory"):
        removal.require_own(RunDirectory(root / "linked" / "20260101-000002-cccc"))
