"""The status of a run, from its directory and Slurm's answer."""

import io
import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import OutsideError
from launcher._util.shell import Result
from launcher.contract import verdict
from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer, Job, State
from launcher.watch.cancel import cancel_run
from launcher.watch.run_state import read_run_state
from launcher.watch.status import Phase, RunStatus, judge, status_of
from launcher.watch.status_details import to_json, write_code
from launcher.watch.status_table import fitted, write_table
from tests.rundir.test_finding import counted
from tests.support.rank_ends import leave
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

NOW = BEGIN + 100
METRICS = (iteration(1), iteration(2))
FINISHED = {"outcome": "finished", "iteration": 20, "train_iters": 20, "loss": 1.5, "ended": BEGIN + 40}
FAILED = {
    "outcome": "failed",
    "reason": "rank 1: ValueError: bad",
    "iteration": 2,
    "first_failing_rank": {"rank": 1, "host": "n2", "what": "ValueError: bad", "cause": "program"},
}
DIVERGED = {
    "outcome": "diverged",
    "reason": "the loss was not finite from iteration 4 on",
    "iteration": 20,
    "train_iters": 20,
    "loss": None,
}
STOPPED = {"outcome": "stopped", "reason": "requested", "iteration": 7, "train_iters": 20}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs" / "small" / "0001", *submitted())


def judged(run: RunDirectory, state: State | None, *, silent: str | None = None, **job: Any) -> RunStatus:
    ended = state is not None and state.terminal
    known = Job("12", state, **{"terminal": ended, **job}) if state else None
    return judge(read_run_state(run), known, Answer({"12": known} if known else {}, NOW, unreachable=silent))


def test_waiting_in_the_queue(run: RunDirectory) -> None:
    status = judged(run, State.PENDING, reason="Priority", start=NOW + 600)
    assert (status.phase, status.detail, status.expected_start) == (Phase.QUEUED, "Priority", NOW + 600)
    assert judged(run, State.PENDING, start=NOW + 365 * 86400).expected_start is None
    assert judged(run, State.PENDING, start=NOW - 10).expected_start is None


def test_back_in_the_queue(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS, result=FAILED)
    status = judged(run, State.REQUEUED, reason="BeginTime")
    assert (status.phase, status.detail) == (Phase.QUEUED, "again, BeginTime")


def test_started_again_after_a_requeue_the_old_verdict_does_not_count(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS, result=FAILED, job_start=BEGIN + 20)
    assert judged(run, State.RUNNING, start=BEGIN + 60).phase is Phase.STARTING
    assert judged(run, State.RUNNING, start=BEGIN + 20).phase is Phase.FAILED


def test_starting_running_stopping(run: RunDirectory) -> None:
    assert judged(run, State.CONFIGURING, nodes="n[1-2]").phase is Phase.STARTING
    attempt = make_attempt(run, timeline=({"event": "imports", "time": BEGIN + 9},))
    assert (judged(run, State.RUNNING).phase, judged(run, State.RUNNING).detail) == (
        Phase.STARTING,
        "setting up process groups",
    )
    attempt.metrics.write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    assert judged(run, State.RUNNING).phase is Phase.RUNNING
    assert judged(run, State.RUNNING).detail.startswith("iteration 2/20 | loss 8")
    assert judged(run, State.SUSPENDED).phase is Phase.SUSPENDED
    attempt.stop.touch()
    assert judged(run, State.RUNNING).phase is Phase.STOPPING


@pytest.mark.parametrize(
    ("state", "result", "phase", "words"),
    [
        (State.COMPLETED, FINISHED, Phase.FINISHED, "iteration 20/20, loss 1.5"),
        (State.COMPLETING, FINISHED, Phase.FINISHED, "iteration 20/20"),
        (State.FAILED, FAILED, Phase.FAILED, "rank 1: ValueError: bad"),
        (State.FAILED, STOPPED, Phase.STOPPED, "requested"),
        (State.FAILED, DIVERGED, Phase.DIVERGED, "from iteration 4 on | iteration 20/20"),
        (State.TIMEOUT, STOPPED, Phase.STOPPED, "the job's time limit | requested"),
        (State.FORGOTTEN, FINISHED, Phase.FINISHED, "iteration 20/20"),
        (State.FORGOTTEN, FAILED, Phase.FAILED, "rank 1"),
        (State.UNKNOWN, FINISHED, Phase.FINISHED, "iteration 20/20"),
        (State.CANCELLED, FAILED, Phase.CANCELLED, "cancelled"),
        (State.CANCELLED, None, Phase.CANCELLED, "the job was cancelled; iteration 2/20, loss 8"),
        (State.TIMEOUT, None, Phase.STOPPED, "the job's time limit; iteration 2/20"),
        (State.NODE_FAIL, None, Phase.FAILED, "a node failed"),
        (State.OUT_OF_MEMORY, None, Phase.FAILED, "out of memory"),
        (State.COMPLETED, None, Phase.FAILED, "without a verdict"),
        (State.BOOT_FAIL, None, Phase.FAILED, "BOOT_FAIL"),
        (State.FORGOTTEN, None, Phase.LOST, "no longer has the job"),
    ],
)
def test_the_end(run: RunDirectory, state: State, result: dict[str, Any] | None, phase: Phase, words: str) -> None:
    make_attempt(run, metrics=METRICS, result=result)
    status = judged(run, state)
    assert status.phase is phase
    assert words in status.detail
    assert status.phase.over


@pytest.mark.parametrize("state", [State.PREEMPTED, State.NODE_FAIL])
def test_a_job_that_may_come_back_is_not_over(run: RunDirectory, state: State) -> None:
    make_attempt(run, metrics=METRICS)
    assert not judged(run, state, terminal=False).phase.over


def test_silence_is_unknown_since_then_and_never_failed(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS)
    status = judged(run, State.UNKNOWN, silent="squeue: Unable to contact slurm controller")
    assert (status.phase, status.unknown_since, status.phase.over) == (Phase.UNKNOWN, NOW, False)
    assert "unknown since" in status.detail
    assert "last sign of life" in status.detail
    assert "iteration 2/20" in status.detail


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("result", [None, FINISHED, FAILED, STOPPED], ids=["none", "finished", "failed", "stopped"])
@pytest.mark.parametrize("attempts", [0, 1, 2])
def test_every_state_has_a_meaning(
    run: RunDirectory, state: State, result: dict[str, Any] | None, attempts: int
) -> None:
    for number in range(attempts):
        make_attempt(run, number, metrics=METRICS, result=result if number == attempts - 1 else FAILED)
    status = judged(run, state)
    json.dumps(status.to_dict())
    if state is State.UNKNOWN and not (attempts and result):
        assert status.phase is Phase.UNKNOWN
    if state.terminal:
        assert status.phase.over
    if status.phase is Phase.FINISHED:
        assert result is FINISHED


def test_runs_that_were_not_submitted(tmp_path: Path) -> None:
    def phase(name: str, *events: dict[str, Any], found: Job | None = None, silent: str | None = None) -> Phase:
        run = make_run(tmp_path / name / "1", *events)
        return judge(read_run_state(run), found, Answer({}, NOW, unreachable=silent)).phase

    intent = {"event": "submit_intent", "token": "t"}
    assert phase("a") is Phase.PREPARED
    assert phase("b", intent, {"event": "submit_refused", "error": "invalid partition"}) is Phase.REFUSED
    assert phase("c", intent) is Phase.UNSUBMITTED
    assert phase("d", intent, silent="no answer") is Phase.UNKNOWN
    assert phase("e", intent, {"event": "submit_unknown"}, found=Job("3", State.PENDING)) is Phase.QUEUED


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("outcome", ["submit_refused", "submit_unknown"])
def test_a_job_that_holds_the_lease_was_not_refused(tmp_path: Path, outcome: str, ended: bool) -> None:
    """As sbatch may say that it got no answer although the controller has queued the job."""
    intent = {"event": "submit_intent", "token": "token-2", "after": "12"}
    run = make_run(tmp_path / "small/1", *submitted(), intent, {"event": outcome, "token": "token-2", "error": "?"})
    make_attempt(run, 0, metrics=METRICS, result=FAILED)
    lease = {"version": 1, "nonce": "token-2", "cluster": None, "job_id": "13", "host": "n1", "attempt": "001"}
    (run.ended_lease("token-2") if ended else run.lease).write_text(json.dumps({**lease, "time": NOW}))
    make_attempt(run, 1, nonce="token-2", metrics=METRICS)

    def squeue(argv: Sequence[str]) -> Result:
        line = f"13|13|RUNNING|{int(NOW)}|N/A|{int(NOW)}|n1|None|/x/sbatch.sh token-2|/x|token-2\n"
        return Result(tuple(argv), 0, line, "")

    (status,), _ = status_of([run], Recorder({"squeue": squeue}), clock=lambda: NOW)
    assert (status.job, status.phase) == ("13", Phase.RUNNING)


@pytest.mark.parametrize(
    ("job", "cluster", "asked"),
    [("12", "there", "here"), ("7", "there", "there"), ("7", None, "here")],
    ids=["the same job", "another job of the submission", "another job, its cluster unknown"],
)
def test_the_number_in_the_lease_is_one_of_its_own_cluster(
    tmp_path: Path, job: str, cluster: str | None, asked: str
) -> None:
    """sbatch had a choice of clusters and timed out; of the two jobs that there were one runs."""
    intent, answered = submitted()
    run = make_run(tmp_path / "small/1", intent, {**answered, "cluster": "here"})
    make_attempt(run)
    lease = {"version": 1, "nonce": "token-1", "cluster": cluster, "job_id": job, "host": "n1", "attempt": "000"}
    run.lease.write_text(json.dumps({**lease, "time": NOW}))
    start = read_run_state(run).start
    assert start is not None
    assert (start.job, start.cluster) == (job, asked)


@pytest.mark.parametrize("outcome", ["submit_refused", "submit_unknown"])
def test_a_successor_that_was_refused_does_not_hide_the_verdict(tmp_path: Path, outcome: str) -> None:
    requeue = {"event": "requeue", "token": "token-1", "job": "12"}
    intent = {"event": "submit_intent", "token": "token-2", "after": "12"}
    refused = {"event": outcome, "token": "token-2", "error": "no"}
    run = make_run(tmp_path / "small/1", *submitted(), requeue, intent, refused)
    make_attempt(run, metrics=METRICS, result=FAILED)
    nothing = Result(("squeue",), 0, "", "")
    (status,), _ = status_of([run], Recorder({"squeue": nothing, "sacct": nothing}), clock=lambda: NOW)
    assert (status.job, status.phase) == ("12", Phase.FAILED)


def test_a_submission_that_was_cut_off_is_found_by_its_token(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small" / "1", {"event": "submit_intent", "token": "token-1"})

    def squeue(argv: Sequence[str]) -> Result:
        text = "77|token-1|small\n" if "--me" in argv else f"77|77|RUNNING|{int(NOW)}|N/A|{int(NOW)}|n1|None\n"
        return Result(tuple(argv), 0, text, "")

    (status,), _ = status_of([run], Recorder({"squeue": squeue}), clock=lambda: NOW)
    assert (status.job, status.phase) == ("77", Phase.STARTING)
    silent = Result(("squeue",), 1, "", "Unable to contact slurm controller (connect failure)")
    (status,), _ = status_of([run], Recorder({"squeue": silent}), clock=lambda: NOW)
    assert status.phase is Phase.UNKNOWN


def test_after_a_resume_the_old_attempt_does_not_count(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS, result=FINISHED)
    assert read_run_state(run).attempt == "000"
    with (run.path / "journal.jsonl").open("a") as journal:
        for event in submitted("13", nonce="token-2"):
            journal.write(json.dumps({"time": BEGIN - 60, **event}) + "\n")  # by another login node's clock
    facts = read_run_state(run)
    assert (facts.attempt, facts.attempts, facts.result, facts.start and facts.start.job) == (None, 1, None, "13")


def test_many_runs_cost_one_question(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "small" / f"{number}", *submitted(str(number))) for number in range(30)]
    text = "".join(f"{number}|{number}|RUNNING|{int(NOW)}|N/A|{int(NOW)}|n1|None\n" for number in range(20))
    shell = Recorder({"squeue": Result(("squeue",), 0, text, ""), "sacct": Result(("sacct",), 1, "", "disabled")})
    statuses, answer = status_of(runs, shell, clock=lambda: NOW)
    assert [argv[0] for argv in shell.asked] == ["squeue", "sacct"]
    assert [status.phase for status in statuses] == [Phase.STARTING] * 20 + [Phase.LOST] * 10
    assert len(to_json(statuses, answer)["runs"]) == 30


def asks(shell: Recorder) -> list[str]:
    return [argv[0] for argv in shell.asked]


def test_interrupted_submissions_and_jobs_behind_cost_no_question_each(tmp_path: Path) -> None:
    """One squeue and one sacct look for all tokens, one squeue and one sacct ask for all jobs."""
    intent = {"event": "submit_intent"}
    runs = [make_run(tmp_path / f"a/{n}", {**intent, "token": f"lost-{n}"}) for n in range(10)]
    for number in range(10):
        behind = {**intent, "token": f"next-{number}", "after": f"{number}"}
        queued = {"event": "submitted", "token": f"next-{number}", "backend": "batch", "job": f"{100 + number}"}
        runs.append(make_run(tmp_path / f"b/{number}", *submitted(f"{number}", f"own-{number}"), behind, queued))
        make_attempt(runs[-1], metrics=METRICS, result=FAILED, nonce=f"own-{number}")

    def squeue(argv: Sequence[str]) -> Result:
        if "--me" in argv:
            return Result(tuple(argv), 0, "77|lost-3|x|y\n", "")
        row = "{0}|{0}|{1}|N/A|N/A|1|n1|Priority|/x/sbatch.sh {2}|/x|{2}\n"
        rows = [row.format(100 + number, "PENDING", f"next-{number}") for number in range(5)]
        return Result(tuple(argv), 0, "".join([*rows, row.format(77, "RUNNING", "lost-3")]), "")

    shell = Recorder({"squeue": squeue, "sacct": Result(("sacct",), 0, "", "")})
    statuses, _ = status_of(runs, shell, clock=lambda: NOW)
    assert asks(shell) == ["squeue", "sacct", "squeue", "sacct"]
    lost, chained = statuses[:10], statuses[10:]
    assert [(each.job, each.phase) for each in lost] == [
        ("77", Phase.STARTING) if number == 3 else (None, Phase.UNSUBMITTED) for number in range(10)
    ]
    assert [each.phase for each in chained] == [Phase.QUEUED] * 5 + [Phase.FAILED] * 5
    assert [each.job for each in chained] == ["100", "101", "102", "103", "104", "5", "6", "7", "8", "9"]


def sacct_shows(state: str, *, squeue: str = "") -> Recorder:
    line = f"12|12|{state}|1:0|{int(BEGIN)}|{int(BEGIN + 50)}|{int(BEGIN)}|n1|sbatch /x/sbatch.sh token-1|/x|token-1\n"
    return Recorder({"squeue": Result(("squeue",), 0, squeue, ""), "sacct": Result(("sacct",), 0, line, "")})


@pytest.mark.parametrize(
    ("state", "result"), [("COMPLETED", FINISHED), ("FAILED", FAILED), ("CANCELLED by 0", None), ("TIMEOUT", STOPPED)]
)
def test_slurm_is_not_asked_again_for_a_job_that_has_ended(
    run: RunDirectory, state: str, result: dict[str, Any] | None
) -> None:
    make_attempt(run, metrics=METRICS, result=result)
    shell = sacct_shows(state)
    first = status_of([run], shell, clock=lambda: NOW)[0][0]
    assert asks(shell) == ["squeue", "sacct"]
    silent = Recorder()
    again, answer = status_of([run], silent, clock=lambda: NOW + 9)
    assert silent.asked == []
    assert answer.unreachable is None
    assert again[0].phase is first.phase
    assert again[0].to_dict() == {**first.to_dict(), "silent_s": again[0].run_state.silent_s}


def test_what_is_remembered_does_not_outlive_a_new_start(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS, result=FAILED)
    status_of([run], sacct_shows("FAILED"), clock=lambda: NOW)
    assert run.ended_jobs.exists()
    make_attempt(run, 1, metrics=METRICS)
    shell = sacct_shows("FAILED", squeue=f"12|12|RUNNING|{int(NOW)}|N/A|1|n1|None|/x/sbatch.sh token-1|/x|token-1\n")
    assert status_of([run], shell, clock=lambda: NOW)[0][0].phase is Phase.RUNNING, "begun again by hand"
    with run.journal_file.open("a") as journal:
        for event in submitted("13", "token-2"):
            journal.write(json.dumps({"time": NOW, **event}) + "\n")
    later = Recorder({"squeue": Result(("squeue",), 0, "", ""), "sacct": Result(("sacct",), 0, "", "")})
    status_of([run], later, clock=lambda: NOW)
    assert "--jobs=13" in later.asked[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"jobs": 3}', '{"jobs": {"token-1": {"id": "12"}}}'])
def test_a_damaged_memory_counts_as_none(run: RunDirectory, content: str) -> None:
    make_attempt(run, metrics=METRICS, result=FAILED)
    run.ended_jobs.write_text(content)
    shell = sacct_shows("FAILED")
    assert status_of([run], shell, clock=lambda: NOW)[0][0].phase is Phase.FAILED
    assert asks(shell) == ["squeue", "sacct"]


ROW = f"12|12|{{}}|{int(BEGIN)}|{int(BEGIN)}|1|n1|None|/x/sbatch.sh {{}}|/x|{{}}\n"


@pytest.mark.parametrize(
    ("squeue", "sacct", "result"),
    [
        (ROW.format("COMPLETED", "token-1", "token-1"), None, FINISHED),
        (ROW.format("RUNNING", "token-1", "token-1"), None, None),
        ("", "disabled", FAILED),
        ("", "of another run", FAILED),
        (None, None, FINISHED),
    ],
    ids=["requeued while squeue shows it", "runs", "accounting may still say more", "not ours", "no answer"],
)
def test_what_may_change_is_asked_again(
    run: RunDirectory, squeue: str | None, sacct: str | None, result: dict[str, Any] | None
) -> None:
    make_attempt(run, metrics=METRICS, result=result)
    words = "Unable to contact slurm controller (connect failure)"
    queue = Result(("squeue",), 1, "", words) if squeue is None else Result(("squeue",), 0, squeue, "")
    other = f"12|12|FAILED|1:0|{int(BEGIN)}|{int(BEGIN)}|1|n1|sbatch /y/sbatch.sh other|/y|other\n"
    account = Result(("sacct",), 0, other, "") if sacct == "of another run" else Result(("sacct",), 1, "", "disabled")
    status_of([run], Recorder({"squeue": queue, "sacct": account}), clock=lambda: NOW)
    assert not run.ended_jobs.exists()


def test_a_finished_run_that_slurm_has_forgotten_is_not_asked_for_again(run: RunDirectory) -> None:
    make_attempt(run, metrics=METRICS, result=FINISHED)
    disabled = Recorder({"squeue": Result(("squeue",), 0, "", ""), "sacct": Result(("sacct",), 1, "", "disabled")})
    assert status_of([run], disabled, clock=lambda: NOW)[0][0].phase is Phase.FINISHED
    assert status_of([run], Recorder(), clock=lambda: NOW)[0][0].phase is Phase.FINISHED


def test_a_job_that_ends_while_slurm_is_asked_keeps_its_verdict(run: RunDirectory) -> None:
    """Files are read first; what the job wrote between that and Slurm's answer counts."""

    def squeue(argv: Sequence[str]) -> Result:
        make_attempt(run, metrics=METRICS, result=FAILED)
        return Result(tuple(argv), 0, f"12|12|FAILED|{int(NOW)}|N/A|{int(NOW)}|n1|NonZeroExitCode\n", "")

    (status,), _ = status_of([run], Recorder({"squeue": squeue}), clock=lambda: NOW)
    assert (status.phase, status.detail) == (Phase.FAILED, "rank 1: ValueError: bad | iteration 2/20, loss 8")
    assert status.to_dict()["first_failing_rank"] == FAILED["first_failing_rank"]


# ---- runs of this machine


def launched(pid: int, ticks: int | None, **more: Any) -> dict[str, Any]:
    base = {"event": "launched", "backend": "local", "attempt": "000", "pid": pid, "start_ticks": ticks}
    return {**base, "host": socket.gethostname(), **more}


def ticks_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_local_runs(tmp_path: Path) -> None:
    def phase(name: str, event: dict[str, Any], result: dict[str, Any] | None = None) -> Phase:
        run = make_run(tmp_path / name / "1", event, backend="local")
        make_attempt(run, metrics=METRICS, result=result)
        (status,), _ = status_of([run], Recorder())
        return status.phase

    me = os.getpid()
    assert phase("a", launched(me, ticks_of(me))) is Phase.RUNNING
    assert phase("b", launched(me, ticks_of(me) - 1)) is Phase.LOST, "the pid belongs to another process now"
    done = subprocess.Popen(["true"])
    done.wait()
    assert phase("c", launched(done.pid, 5)) is Phase.LOST
    assert phase("d", launched(done.pid, 5), FINISHED) is Phase.FINISHED
    assert phase("e", launched(me, ticks_of(me), host="elsewhere")) is Phase.UNKNOWN
    cancelled = make_run(tmp_path / "f" / "1", launched(done.pid, 5), {"event": "cancelled"}, backend="local")
    make_attempt(cancelled, metrics=METRICS)
    assert status_of([cancelled], Recorder())[0][0].phase is Phase.CANCELLED


# ---- for people and programs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    make_attempt(run, metrics=METRICS, written=time.time())
    running = judged(run, State.RUNNING)
    queued = replace(judged(run, State.PENDING, reason="[Priority]"), expected_start=NOW + 600)
    plain = io.StringIO()
    write_table([running, queued], plain, NOW)
    head, first, second = plain.getvalue().splitlines()
    columns = ["RUN", "JOB", "NODES", "STATE", "ITERATION", "LOSS", "S/ITERATION", "LEFT", "ELAPSED", "LIMIT", "DETAIL"]
    assert head.split() == columns
    assert first.split() == ["small/0001", "12", "running", "2/20", "8", "0.500", "0:00:09"]
    assert "[Priority], expected to start in 0:10:00" in second
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    write_table([running, queued], terminal, NOW)
    head, first, second = terminal.getvalue().splitlines()
    assert head.split()[0] == "RUN"
    assert "small/0001" in first
    assert "\033[36mrunning\033[0m" in first
    assert "[Priority]" in second
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    write_table([running], terminal, NOW)
    assert "\033" not in terminal.getvalue()


RUN_ID = "20260101-000000-0123456789ab"
ROWS = [
    (
        f"small/{RUN_ID}",
        "1234567",
        "2",
        "running",
        "20/20000",
        "8.1234",
        "0.512",
        "2:51:12",
        "1:00:05",
        "3:00:00",
        "try 2",
    ),
    (f"vanilla_gpt_pretrain/{RUN_ID}", "1234568", "128", "failed", "20000/1000000", "10.123", *[""] * 4, "rank 7: x"),
    (f"a/{RUN_ID}", "", "", "prepared", *[""] * 6, ""),
]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_a_table_fits_its_terminal_with_whole_ids(width: int) -> None:
    lines = fitted(ROWS, width, [32, None, None])
    plain = [line.replace("\033[32m", "").replace("\033[0m", "") for line in lines]
    assert max(map(len, plain)) <= width
    assert sum(RUN_ID in line for line in plain) == 3
    text = " ".join(" ".join(plain).split())
    for row in ROWS:
        for column, cell in enumerate(row):
            if column == 6 and width < 200:
                continue  # seconds for each iteration: the time left says more
            for word in cell.replace("/", " ").split():
                assert word in text, (word, plain)


def test_how_long_a_run_takes_and_may_take(run: RunDirectory) -> None:
    plan = {**json.loads(run.plan_file.read_text()), "layout": {"nodes": 4}}
    run.plan_file.write_text(json.dumps(plan))
    make_attempt(run, metrics=METRICS, job_start=NOW - 60)
    row = "12|12|{}|{}|{}|{}|n1|None|/x/sbatch.sh token-1|/x|token-1\n"

    def values(state: str, end: str) -> tuple[object, ...]:
        text = row.format(state, int(NOW - 60), end, int(BEGIN))
        (status,), _ = status_of([run], Recorder({"squeue": Result(("squeue",), 0, text, "")}), clock=lambda: NOW)
        shown = status.to_dict()
        return shown["nodes"], shown["elapsed_s"], shown["limit_left_s"]

    assert values("RUNNING", str(int(NOW + 3600))) == (4, 60, 3600)
    assert values("RUNNING", str(int(NOW + 365 * 86400))) == (4, 60, None), "no limit"
    assert values("PENDING", "N/A") == (4, None, None)
    (run.attempt(0).path / "result.json").write_text(json.dumps({**FINISHED, "started": BEGIN, "ended": BEGIN + 40}))
    assert values("COMPLETING", "N/A") == (4, 40, None)


def test_a_narrow_table(width: int = 80) -> None:
    assert fitted(ROWS[:1] + ROWS[2:], width, [None, None]) == [
        "RUN                           STATE     JOB      ITERATION  LOSS    LEFT",
        "20260101-000000-0123456789ab  running   1234567  20/20000   8.1234  2:51:12",
        "  small | nodes: 2 | for 1:00:05 | its limit is in 3:00:00 | try 2",
        "20260101-000000-0123456789ab  prepared",
        "  a",
    ]


def test_the_object_for_programs(run: RunDirectory) -> None:
    make_attempt(run, metrics=(*METRICS[:-1], {**METRICS[-1], "tokens_per_second": 81920.0}), result=FAILED)
    status = judged(run, State.FAILED, reason="NonZeroExitCode")
    (value,) = to_json([status], Answer({}, NOW))["runs"]
    assert value["tokens_per_second"] == 81920.0
    assert (value["phase"], value["over"], value["iteration"], value["loss"]) == ("failed", True, 2, 8.0)
    assert (value["first_failing_rank"]["host"], value["job"], value["seconds_left"]) == ("n2", "12", None)


# ---- jobs that could not write a verdict, on a cluster without accounting


def sbatch_log(run: RunDirectory, why: str, job: str = "12") -> None:
    words = f"slurmstepd: error: *** JOB {job} ON n1 CANCELLED AT 2026-11-25T21:00:00{why} ***\n"
    run.sbatch_log.write_text(f"something else\n{words}")


@pytest.mark.parametrize(
    ("why", "phase", "words"),
    [
        (
            " DUE TO TIME LIMIT",
            Phase.STOPPED,
            "the job's time limit; iteration 2/20, loss 8; checkpoint of iteration 2",
        ),
        (" DUE TO PREEMPTION", Phase.STOPPED, "preempted; iteration 2/20"),
        (" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", Phase.FAILED, "a node failed; iteration 2/20"),
        ("", Phase.CANCELLED, "the job was cancelled; iteration 2/20"),
    ],
)
def test_what_slurm_wrote_to_the_log_counts_where_it_forgot_the_job(
    run: RunDirectory, why: str, phase: Phase, words: str
) -> None:
    make_attempt(run, metrics=METRICS, timeline=({"event": "save", "iteration": 2},))
    sbatch_log(run, why)
    status = judged(run, State.FORGOTTEN)
    assert status.phase is phase
    assert status.detail.startswith(words)
    assert "`launcher submit --resume small/0001` continues it" in status.detail
    sbatch_log(run, why, job="11")
    assert judged(run, State.FORGOTTEN).phase is Phase.LOST, "the line is about another job"


def test_the_launchers_own_cancel_counts_where_slurm_forgot_the_job(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small" / "1", *submitted(), {"event": "cancelled", "job": "12"})
    make_attempt(run, metrics=METRICS)
    assert judged(run, State.FORGOTTEN).phase is Phase.CANCELLED


@pytest.mark.parametrize(("outcome", "reason"), [("finished", None), ("stopped", "signal SIGTERM")])
def test_ranks_that_ended_well_are_the_verdict_of_a_job_that_was_ended(
    run: RunDirectory, outcome: str, reason: str | None
) -> None:
    attempt = make_attempt(run, metrics=METRICS, timeline=({"event": "save", "iteration": 2},))
    sbatch_log(run, " DUE TO TIME LIMIT")

    def ask() -> RunStatus:
        forgotten = Recorder({"squeue": Result(("squeue",), 0, "", ""), "sacct": Result(("sacct",), 1, "", "disabled")})
        return status_of([run], forgotten, clock=lambda: NOW)[0][0]

    for rank in range(2):
        assert ask().phase is Phase.STOPPED
        record = {"version": 1, "rank": rank, "host": "n1", "outcome": outcome, "reason": reason, "iteration": 2}
        leave(attempt, rank, record)
    status = ask()
    assert (status.phase.value, status.to_dict()["outcome"]) == (outcome, outcome)
    reached = "iteration 2/20, loss 8"
    saved = "checkpoint of iteration 2; `launcher submit --resume small/0001` continues it"
    stopped = f"the job's time limit | signal SIGTERM | {reached} | {saved}"
    assert status.detail == (stopped if outcome == "stopped" else reached)


def test_the_code_of_a_run_is_shown(run: RunDirectory) -> None:
    def shown() -> str:
        out = io.StringIO()
        write_code([judged(run, State.RUNNING)], out)
        return out.getvalue()

    assert shown() == ""
    plan = json.loads(run.plan_file.read_text())
    source = {"commit": "0123456789abcdef", "branch": "work", "changed": ["a.py", "b.py"], "diff": ""}
    run.plan_file.write_text(json.dumps({**plan, "source": source, "shipped": {"files": 3, "bytes": 2400}}))
    assert shown() == "0001: code: 3 files of 2 kB; 0123456789ab on work, 2 changed files\n"
    run.plan_file.write_text(json.dumps({**plan, "source": {"commit": None, "changed": []}, "shipped": "?"}))
    assert shown() == "0001: code: no commit yet, unchanged\n"
    run.plan_file.write_text("{")
    assert shown() == ""


def test_a_finished_run_in_a_table_costs_six_calls_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan, journal, lease, attempts, verdict and network warnings; its metrics are read where they are shown."""
    launched = {"event": "launched", "backend": "local", "attempt": "000", "host": "elsewhere"}
    runs = []
    for number in range(5):
        run = make_run(tmp_path / f"20260921-10150{number}-abcd", launched, backend="local")
        attempt = make_attempt(run, metrics=(iteration(1), iteration(2, tflops_per_gpu=7.0)))
        for rank in range(2):
            record = {"version": 1, "host": "n", "pid": 1, "time": BEGIN, "outcome": "finished"}
            leave(attempt, rank, {**record, "reason": None, "iteration": 2, "exception": None, "cause": None})
        attempt.result_file.write_text(json.dumps(verdict.compose(attempt, 2, 0, now=BEGIN)))
        runs.append(RunDirectory(run.path))
    with counted(monkeypatch) as calls:
        statuses, answer = status_of(runs, Recorder())
        write_table(statuses, io.StringIO(), BEGIN)
    assert calls == {"open": 3 * 5, "lstat": 5, "listdir": 2 * 5}
    (shown, *_) = to_json(statuses[:1], answer)["runs"]
    assert (shown["phase"], shown["iteration"], shown["tflops_per_gpu"]) == ("finished", 2, 7.0)


def test_of_a_copy_from_another_machine_slurm_here_knows_nothing(run: RunDirectory) -> None:
    run.note_pulled("far", "/there/small/0001", checkpoints=False)
    nothing = Result(("squeue",), 0, "", "")
    gone = Recorder({"squeue": nothing, "sacct": nothing})
    (status,), _ = status_of([run], gone)
    assert (status.phase, status.job) == (Phase.UNKNOWN, "12") and "a copy of far:/there/small/0001" in status.detail
    with pytest.raises(OutsideError, match="is a copy of far:/there/small/0001"):
        cancel_run(run, gone)
    run.journal.write("cancelled", job="13", cluster=None)
    assert run.pulled_from is None, "it was used here since"
