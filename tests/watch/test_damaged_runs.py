"""Runs with a lost or damaged file: `unknown` with the reason, beside the others; only a proven job is ended."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import OutsideError
from launcher._util.shell import Result
from launcher.api.scripting import Run
from launcher.rundir import RunDirectory
from launcher.rundir.finding import list_runs
from launcher.watch.cancel import cancel_run
from launcher.watch.status import Phase, status_of
from launcher.watch.status_details import to_json
from launcher.watch.status_table import write_table
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

LEASE = {
    "version": 1,
    "nonce": "token-1",
    "cluster": None,
    "job_id": "12",
    "host": "n1",
    "attempt": "000",
    "time": BEGIN,
}
RESULT = {"outcome": "failed", "reason": "bad", "iteration": 2, "first_failing_rank": {"rank": 1, "host": "n2"}}
DEEP = "[" * 100_000

Damage = Callable[[RunDirectory], None]


def written(name: str, content: str | bytes) -> Damage:
    def damage(run: RunDirectory) -> None:
        (run.path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def directory(name: str) -> Damage:
    def damage(run: RunDirectory) -> None:
        (run.path / name).unlink()
        (run.path / name).mkdir()

    return damage


def plan(**values: Any) -> Damage:
    def damage(run: RunDirectory) -> None:
        run.plan_file.write_text(json.dumps({**json.loads(run.plan_file.read_text()), **values}))

    return damage


def event(**values: Any) -> Damage:
    whole = {"time": BEGIN, "event": "submitted", "job": "12", "token": "token-1", **values}
    return written("journal.jsonl", json.dumps(whole) + "\n")


def lease(*without: str, **values: Any) -> Damage:
    kept = {name: value for name, value in LEASE.items() if name not in without}
    return written("lease", json.dumps({**kept, **values}))


def result(**values: Any) -> Damage:
    return written("attempts/000/result.json", json.dumps({**RESULT, **values}))


def lost(run: RunDirectory) -> None:
    run.journal_file.unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "plan truncated": (written("plan.json", '{"name": "sm'), "plan.json"),
    "plan empty": (written("plan.json", ""), "plan.json"),
    "plan a list": (written("plan.json", "[]"), "plan.json does not hold"),
    "plan deep": (written("plan.json", DEEP), "plan.json"),
    "plan not UTF-8": (written("plan.json", b'{"name": "\xff"}'), "plan.json"),
    "plan a directory": (directory("plan.json"), "plan.json"),
    "world_size null": (plan(world_size=None), "world_size is None"),
    "world_size text": (plan(world_size="8"), "world_size is '8'"),
    "backend a list": (plan(backend=[]), "backend is []"),
    "run_dir a number": (plan(run_dir=1), "run_dir is 1"),
    "journal lost": (lost, "the journal is lost"),
    "journal a directory": (directory("journal.jsonl"), "cannot read the journal"),
    "journal garbage": (written("journal.jsonl", b"\xff\x00garbage\n"), "the journal has no start"),
    "journal deep": (written("journal.jsonl", DEEP), "the journal has no start"),
    "time text": (event(time="now"), "time is 'now'"),
    "time null": (event(time=None), "time is None"),
    "job a number": (event(job=12), "job is 12"),
    "job a list": (event(job=["12"]), "job is ['12']"),
    "job a word": (event(job="x"), "'x' is not the number of a job"),
    "job empty": (event(job=""), "'' is not the number of a job"),
    "cluster with a null": (event(cluster="a\0b"), "is not the name of a cluster"),
    "time huge": (event(time=10**400), "time is 1000"),
    "loss huge": (result(loss=10**400), "loss is 1000"),
    "token an object": (event(token={}), "token is {}"),
    "pid text": (event(event="launched", pid="x"), "pid is 'x'"),
    "event a number": (event(event=1), "event is 1"),
    "no event": (written("journal.jsonl", "{}\n"), "lacks 'event'"),
    "lease without job_id": (lease("job_id"), "lacks 'job_id'"),
    "lease without attempt": (lease("attempt"), "lacks 'attempt'"),
    "lease with a number": (lease(job_id=12), "job_id is 12"),
    "lease with an object": (lease(nonce={}), "nonce is {}"),
    "failing rank text": (result(first_failing_rank="1"), "first_failing_rank is '1'"),
    "failing rank's host a list": (result(first_failing_rank={"host": []}), "first_failing_rank.host is []"),
    "iteration text": (result(iteration="2"), "iteration is '2'"),
    "outcome a list": (result(outcome=[]), "outcome is []"),
    "result of another attempt": (result(attempt="007"), "it is that of attempt 007"),
}


def slurm(state: str = "RUNNING", script: str = "/x/sbatch.sh", comment: str = "token-1") -> Recorder:
    line = f"12|12|{state}|{int(BEGIN)}|N/A|{int(BEGIN)}|n1|None|{script}|/x|{comment}\n"
    return Recorder({"squeue": Result(("squeue",), 0, line, ""), "scancel": Result(("scancel",), 0, "", "")})


def training(path: Path) -> RunDirectory:
    run = make_run(path, *submitted())
    make_attempt(run, metrics=(iteration(1),))
    return run


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_one_line_and_hides_no_other(tmp_path: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    for number in "123":
        training(tmp_path / "small" / number)
    damage(RunDirectory(tmp_path / "small" / "2"))
    runs = list_runs(tmp_path)
    statuses, answer = status_of(runs, slurm())
    found = {each.run_state.run_id: each for each in statuses}
    assert {number: each.phase for number, each in found.items()} == {
        "1": Phase.RUNNING,
        "2": Phase.UNKNOWN,
        "3": Phase.RUNNING,
    }
    assert reason in found["2"].detail
    table = io.StringIO()
    write_table(statuses, table, BEGIN)
    assert len(table.getvalue().splitlines()) == 4
    json.dumps(to_json(statuses, answer))


@pytest.mark.parametrize("name", ["plan truncated", "plan a directory", "journal a directory", "world_size null"])
def test_a_script_may_ask_each_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path / "small" / "1")
    DAMAGES[name][0](run)
    monkeypatch.setattr("launcher._util.shell.LocalShell", slurm)
    assert DAMAGES[name][1] in Run(run.path).status().detail


LOST: dict[str, Damage] = {name: DAMAGES[name][0] for name in DAMAGES if name.startswith("journal")}


@pytest.mark.parametrize("name", LOST)
def test_without_a_journal_the_job_of_the_lease_is_ended_if_it_is_proven(tmp_path: Path, name: str) -> None:
    run = training(tmp_path / "small" / "1")
    lease()(run)
    LOST[name](run)
    (status,), _ = status_of([run], slurm())
    assert (status.phase, status.job, status.job_proven) == (Phase.UNKNOWN, "12", True)
    for other in (slurm(comment="other"), slurm(script="", comment="")):
        with pytest.raises(OutsideError, match=r"nothing was ended|was not ended"):
            cancel_run(run, other)
        assert all(argv[0] != "scancel" for argv in other.asked)
    assert cancel_run(run, slurm("COMPLETED")) == "job 12 has already ended: COMPLETED"
    shell = slurm()
    assert cancel_run(run, shell) == "job 12 is cancelled"
    assert shell.asked[-1] == ("scancel", "12")


@pytest.mark.parametrize("name", LOST)
def test_without_a_journal_and_a_lease_nothing_is_ended(tmp_path: Path, name: str) -> None:
    run = training(tmp_path / "small" / "1")
    LOST[name](run)
    shell = slurm()
    with pytest.raises(OutsideError, match="unknown what the run's job is"):
        cancel_run(run, shell)
    assert not shell.asked


def test_a_process_without_a_journal_is_not_said_to_have_ended(tmp_path: Path) -> None:
    run = training(tmp_path / "small" / "1")
    lease(job_id=None)(run)
    lost(run)
    with pytest.raises(OutsideError, match="unknown what the run's job is"):
        cancel_run(run, slurm())


def test_a_run_that_was_only_prepared_is_not_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small" / "1")
    for damage in (written("journal.jsonl", ""), lost):
        damage(run)
        assert status_of([run], Recorder())[0][0].phase is Phase.PREPARED
    written("journal.jsonl", "garbage\n")(run)
    assert status_of([run], Recorder())[0][0].phase is Phase.UNKNOWN


def test_an_event_of_a_later_launcher_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small" / "1", *submitted(), {"event": "moved", "job": 7})
    make_attempt(run, metrics=(iteration(1),))
    assert status_of([run], slurm())[0][0].phase is Phase.RUNNING


def test_a_removed_run_is_not_listed(tmp_path: Path) -> None:
    run = training(tmp_path / "small" / "1")
    training(tmp_path / "small" / "2")
    run.plan_file.unlink()
    run.plan_file.symlink_to("nowhere")
    assert [each.path.name for each in list_runs(tmp_path)] == ["2"]
    shutil.rmtree(run.path)


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\x9b31m", "\x7f", "\u202e", "\udcff"])
def test_a_pipe_gets_no_control_characters(tmp_path: Path, bad: str) -> None:
    run = make_run(tmp_path / "small" / "1", *submitted())
    make_attempt(run, result={**RESULT, "reason": f"a{bad}b", "first_failing_rank": {"host": f"n{bad}"}})
    plan(name=f"x{bad}")(run)
    table = io.StringIO()
    write_table(status_of([run], slurm("FAILED"))[0], table, BEGIN)
    assert all(each.isprintable() for each in table.getvalue().splitlines())
    assert bad.encode("unicode_escape").decode() in table.getvalue()
