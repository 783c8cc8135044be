"""The verdict on an attempt: every mixture of ends, and the rank to look at first."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.contract import verdict
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.job import result as program
from tests.support.quick import few
from tests.support.rank_ends import leave

PROGRAM = Path(program.__file__)
OLDEST = Path.home() / ".pyenv/versions/3.10.13/bin/python"


def record(outcome: str, *, time: float = 10.0, cause: str | None = None, **more: Any) -> dict[str, Any]:
    failed = outcome == "failed"
    exception = {"type": "ValueError", "message": "bad", "where": "x.py:1 in f", "traceback": "..."} if failed else None
    base = {"version": 1, "host": "n1", "pid": 1, "outcome": outcome, "reason": None, "iteration": 5, "time": time}
    return {**base, "exception": exception, "cause": (cause or "program") if failed else None, **more}


FINISHED, STOPPED = record("finished"), record("stopped", reason="requested")


def attempt_of(directory: Path, ranks: list[tuple[dict[str, Any] | None, str | None]]) -> Path:
    """A run directory whose ranks left these records and exit lines."""
    folder = directory / "attempts" / "000" / "ranks"
    folder.mkdir(parents=True)
    for rank, (said, line) in enumerate(ranks):
        if said is not None:
            leave(folder.parent, rank, said)
        if line is not None:
            leave(folder.parent, rank, line)
    return directory


def judge(directory: Path, ranks: list[tuple[dict[str, Any] | None, str | None]], status: int = 0) -> Any:
    attempt_of(directory, ranks)
    return verdict.compose(AttemptPaths(directory / "attempts" / "000"), len(ranks), status, now=100.0)


def test_all_finished(tmp_path: Path) -> None:
    result = judge(tmp_path, [(FINISHED, "0 11.5 n1"), (FINISHED, "0 12.5 n2")])
    assert (result["outcome"], result["reason"], result["first_failing_rank"]) == ("finished", None, None)
    assert (result["failed_ranks"], result["missing_ranks"], result["iteration"], result["ended"]) == ([], [], 5, 12.5)


def test_stopped_says_why(tmp_path: Path) -> None:
    result = judge(tmp_path, [(FINISHED, "0 11 n1"), (STOPPED, "0 11 n1")])
    assert (result["outcome"], result["reason"]) == ("stopped", "requested")


# name: (ranks, rank to look at, what it died of)
FAILURES: dict[str, tuple[list[tuple[dict[str, Any] | None, str | None]], int, str]] = {
    "an exception": ([(FINISHED, "0 11 n1"), (record("failed"), "1 11 n2")], 1, "ValueError: bad"),
    "the earlier of two": (
        [(record("failed", time=9.2), "1 9.9 a"), (record("failed", time=9.1), "1 10 b")],
        1,
        "ValueError",
    ),
    "a cause before those who lost their peer": (
        [(record("failed", time=8, cause="communication"), "1 9 a"), (record("failed", time=9), "1 9 b")],
        1,
        "ValueError",
    ),
    "a wrong request": (
        [(record("failed", cause="user"), "2 9 a"), (record("failed", cause="user", time=9), "2 9 b")],
        1,
        "bad",
    ),
    "os._exit": (
        [(record("failed", time=5, cause="communication"), "1 6 a"), (None, "7 5.5 b")],
        1,
        "ended with status 7",
    ),
    "a segfault": ([(None, "143 9 a"), (None, "139 8.5 b")], 1, "killed by signal 11 (SIGSEGV)"),
    "an out-of-memory kill, noticed by its peer before step.sh could write it down": (
        [(record("failed", time=7.99, cause="communication"), "1 9 a"), (None, "137 8 b"), (None, "143 9.5 c")],
        1,
        "killed by signal 9 (SIGKILL)",
    ),
    "those ended after a failure are consequences": (
        [(None, "143 9.5 a"), (None, "137 9.6 a"), (record("failed", time=8), "1 9 b")],
        2,
        "ValueError",
    ),
    "also after communication failed by itself": (
        [(None, "143 9.5 a"), (record("failed", time=8, cause="communication"), "1 9 b")],
        1,
        "ValueError",
    ),
    "somebody sent one rank SIGTERM": (
        [(record("failed", time=8.1, cause="communication"), "1 9 a"), (None, "143 8 b")],
        1,
        "killed by signal 15 (SIGTERM)",
    ),
    "a lost node": ([(record("failed", cause="communication"), "1 11 a"), (None, None)], 1, "left no record"),
    "a lost node, the others ended": ([(None, "143 9 a"), (None, None)], 1, "left no record"),
    "a failure on a node, others killed with their step.sh": (
        [(None, None), (record("failed"), "1 9 b")],
        1,
        "ValueError",
    ),
    "an out-of-memory kill, others killed with their step.sh": ([(None, None), (None, "137 9 b")], 1, "SIGKILL"),
    "cancelled as a whole": ([(None, "143 9.2 a"), (None, "143 9.1 b")], 1, "killed by signal 15 (SIGTERM)"),
    "stopped in vain": ([(STOPPED, "0 11 a"), (record("failed"), "1 10 b")], 1, "ValueError"),
    "a crash while leaving pulls another down": (
        [(FINISHED, "139 9 a"), (None, "143 9.5 b")],
        0,
        "after it had finished",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_rank_to_look_at(name: str, turned: bool, tmp_path: Path) -> None:
    ranks, first, what = FAILURES[name]
    if turned:  # the number of a rank must not matter
        ranks, first = ranks[::-1], len(ranks) - 1 - first
    result = judge(tmp_path, ranks, status=1)
    assert result["outcome"] == "failed"
    assert result["first_failing_rank"]["rank"] == first
    assert what in result["first_failing_rank"]["what"]
    assert what in result["reason"]
    assert result["missing_ranks"] == [rank for rank, ends in enumerate(ranks) if ends == (None, None)]


def test_host_and_cause_of_the_first_failing_rank(tmp_path: Path) -> None:
    first = judge(tmp_path / "a", [(record("failed", host="n7", cause="user"), "2 9 n7")])["first_failing_rank"]
    assert (first["host"], first["cause"]) == ("n7", "user")
    first = judge(tmp_path / "b", [(None, "137 9 n8")])["first_failing_rank"]
    assert (first["host"], first["cause"]) == ("n8", None)


def test_a_crash_after_the_end_is_reported_and_is_not_a_failure(tmp_path: Path) -> None:
    result = judge(tmp_path, [(FINISHED, "0 11 a"), (FINISHED, "139 11 a")], status=139)
    assert (result["outcome"], result["failed_ranks"], result["step_status"]) == ("finished", [], 139)
    assert result["reason"] == "rank 1: killed by signal 11 (SIGSEGV) after it had finished"


def test_nothing_began(tmp_path: Path) -> None:
    result = judge(tmp_path, [(None, None)] * 3, status=1)
    assert (result["outcome"], result["missing_ranks"]) == ("failed", [0, 1, 2])
    assert result["reason"] == "no rank left a record: the step ended with status 1 before the program began"
    assert (result["iteration"], result["loss"], result["started"], result["ended"]) == (None, None, None, 100.0)


def test_ranks_that_have_trained_and_left_no_record_did_begin(tmp_path: Path) -> None:
    run = attempt_of(tmp_path, [(None, None)] * 2)
    (run / "attempts/000/metrics.jsonl").write_text('{"iteration": 7, "loss": 1.5, "time": 20.0}\n')
    result = verdict.compose(AttemptPaths(run / "attempts/000"), 2, 143, now=100.0)
    assert (result["reason"], result["iteration"]) == ("no rank left a record: the step ended with status 143", 7)


ENDS = [
    None,
    FINISHED,
    STOPPED,
    record("failed"),
    record("failed", cause="user"),
    record("failed", cause="communication"),
]
LINES = [None, "0 11 n1", "1 11 n1", "2 11 n1", "137 11 n1", "143 11 n1"]


def test_every_combination_for_two_ranks(tmp_path: Path) -> None:
    pairs = list(itertools.product(ENDS, LINES))
    every = list(itertools.product(pairs, pairs))
    for number, ends in enumerate(every[:: len(every) // few(len(every))]):
        result = judge(tmp_path / str(number), list(ends), status=1)
        outcomes = [said["outcome"] if said else None for said, _ in ends]
        good = all(each in ("finished", "stopped") for each in outcomes)
        assert result["outcome"] == ("failed" if not good else "stopped" if "stopped" in outcomes else "finished")
        assert result["failed_ranks"] == [rank for rank, each in enumerate(outcomes) if each in (None, "failed")]
        first = result["first_failing_rank"]
        assert (first is None) == good
        own = [rank for rank, (said, _) in enumerate(ends) if said and said["cause"] in ("user", "program")]
        if own:
            # A crash while leaving, or death by another status, counts as much as an error of one's own.
            others = [rank for rank, (said, line) in enumerate(ends) if line and line[0] != "0" and rank not in own]
            assert first["rank"] in own + [rank for rank in others if outcomes[rank] != "failed"]


def test_numbers_come_from_the_metrics(tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, [(FINISHED, "0 11 n1")]) / "attempts" / "000"
    lines = [
        {"iteration": n, "train_iters": 20, "loss": 10.0 - n, "seconds": s} for n, s in ((1, 9.0), (2, 0.2), (3, 0.4))
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (attempt / "metrics.jsonl").write_text(f'{text}\n{{"iteration": 4, "loss": null, "seconds": true}}\n{{"iterat')
    (attempt / "timeline.jsonl").write_text('{"time": 3.5, "event": "imports"}\n[1]\n{"time": 4.5, "event": "end"}\n')
    result = verdict.compose(AttemptPaths(attempt), 1, 0, now=100.0)
    # The loss of iteration 4 was not logged: that of iteration 3 does not stand for it.
    assert (result["iteration"], result["train_iters"], result["loss"]) == (5, 20, None)
    assert (result["seconds_per_iteration"], result["started"], result["ended"]) == (0.4, 3.5, 11.0)


@settings(max_examples=few(150), deadline=None)
@given(record_text=st.binary(max_size=60), exit_text=st.binary(max_size=30), metrics=st.binary(max_size=80))
def test_whatever_lies_there_there_is_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, record_text: bytes, exit_text: bytes, metrics: bytes
) -> None:
    attempt = attempt_of(tmp_path_factory.mktemp("run"), [(FINISHED, "0 1 a")]) / "attempts" / "000"
    leave(attempt, 1, record_text)
    leave(attempt, 1, exit_text, node=1)
    (attempt / "metrics.jsonl").write_bytes(metrics)
    result = verdict.compose(AttemptPaths(attempt), 2, 1, now=100.0)
    assert result["outcome"] == "failed"
    assert json.loads(json.dumps(result)) == result


def test_as_a_file_on_the_oldest_python(tmp_path: Path) -> None:
    python = str(OLDEST) if OLDEST.exists() else sys.executable
    run = attempt_of(tmp_path, [(STOPPED, "0 11 n1"), (STOPPED, "0 11 n1")])

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-I", "-S", str(PROGRAM), *arguments], capture_output=True, text=True, check=False
        )

    done = call(str(run), "000", "2", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
    result = json.loads((run / "attempts" / "000" / "result.json").read_text())
    assert result["version"] == 1
    assert sorted(path.name for path in (run / "attempts" / "000").iterdir()) == ["ranks", "result.json"]
    for wrong in (["x"], [str(run), "007", "2", "0"], [str(run), "000", "two", "0"], [str(run), "000", "0", "0"]):
        done = call(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage" in done.stderr


def test_an_attempt_that_another_one_has_superseded_changes_no_verdict(tmp_path: Path) -> None:
    run = attempt_of(tmp_path, [(CRASHED, "1 11 n1")])
    (run / "lease").write_text(json.dumps({"version": 1, "nonce": "me", "attempt": "001"}))
    result, decided = run / "attempts/000/result.json", run / "attempts/000/next.json"
    assert program.main([str(run), "000", "1", "1"]) == 0
    assert json.loads(result.read_text())["outcome"] == "failed", "it had no verdict"
    result.write_text("{}")
    decided.write_text("{}")
    assert program.main([str(run), "000", "1", "1"]) == 0
    assert (result.read_text(), decided.read_text()) == ("{}", "{}")
    assert program.main([str(run), "000", "1", "-1"]) == 0, "the owner judges it"
    assert json.loads(result.read_text())["outcome"] == "failed"


CRASHED = record("failed")
LINE = {"train_iters": 20, "seconds": 0.1}
GOOD, NAN = {**LINE, "loss": 2.0}, {**LINE, "loss": float("nan")}
NULLED = {**LINE, "loss": None, "not_finite": ["grad_norm", "loss"]}
UNLOGGED = {**LINE, "loss": None}
SKIPPED = {**NULLED, "skipped": True}
INFINITE = {**LINE, "loss": float("inf")}


@pytest.mark.parametrize(
    ("lines", "end", "outcome", "diverged_at", "loss"),
    [
        ([GOOD] * 3 + [NAN] * 3, FINISHED, "diverged", 4, None),
        ([GOOD] * 3 + [NULLED] * 3, FINISHED, "diverged", 4, None),
        ([GOOD] * 5 + [INFINITE], FINISHED, "diverged", 6, None),
        ([GOOD, NAN, GOOD, NAN], STOPPED, "diverged", 4, None),
        ([NAN] * 9 + [GOOD], FINISHED, "finished", None, 2.0),
        ([GOOD, UNLOGGED], FINISHED, "finished", None, None),
        ([UNLOGGED] * 12, FINISHED, "finished", None, None),
        ([GOOD] + [SKIPPED] * 12, FINISHED, "finished", None, None),
        ([GOOD, NULLED, SKIPPED, NULLED, SKIPPED], FINISHED, "diverged", 2, None),
        ([GOOD] + [NULLED] * 9, CRASHED, "failed", 2, None),
        ([GOOD] + [NULLED] * 10, CRASHED, "diverged", 2, None),
        ([], FINISHED, "finished", None, None),
    ],
    ids=str,
)
def test_a_loss_that_is_not_finite_is_an_outcome_and_is_not_replaced_by_an_older_one(
    tmp_path: Path, lines: list[dict[str, Any]], end: dict[str, Any], outcome: str, diverged_at: int | None, loss: Any
) -> None:
    attempt_of(tmp_path, [(end, "0 11 n1")])
    numbered = [json.dumps({"iteration": index, **line}) for index, line in enumerate(lines, 1)]
    (tmp_path / "attempts/000/metrics.jsonl").write_text("".join(f"{line}\n" for line in numbered))
    result = verdict.compose(AttemptPaths(tmp_path / "attempts/000"), 1, 0, now=100.0)
    assert (result["outcome"], result["diverged_at"], result["loss"]) == (outcome, diverged_at, loss)
    if outcome == "diverged":
        assert f"not finite from iteration {diverged_at} on" in str(result["reason"])
        assert ("rank 0: ValueError: bad" in str(result["reason"])) is (end is CRASHED)


def notice(directory: Path, why: str, time: float = 10.0) -> None:
    text = json.dumps({"version": 1, "time": time, "why": why, "left_s": 30})
    (directory / "attempts/000/notice.json").write_text(text)


KILLED, LATER = (None, "137 9.0 n1"), (None, "137 12.0 n1")
OUTER: dict[str, tuple[str, list[tuple[dict[str, Any] | None, str | None]], str, str | None]] = {
    "all saved": ("time limit", [(STOPPED, "0 11 a")] * 2, "stopped", "time limit"),
    "preempted": ("preempted", [(STOPPED, "0 11 a")] * 2, "stopped", "preempted"),
    "killed before they had saved": ("time limit", [LATER, (None, None)], "stopped", "time limit; 2 of 2 ranks"),
    "ended in the set-up": ("cancelled", [(None, "143 9.5 a")] * 2, "stopped", "cancelled; 2 of 2 ranks"),
    "a peer was gone": (
        "preempted",
        [(record("failed", cause="communication"), "1 11 a"), LATER],
        "stopped",
        "preempted; 2 of 2 ranks",
    ),
    "an error of its own": ("time limit", [(record("failed"), "1 9 a"), LATER], "failed", "rank 0: ValueError: bad"),
    "killed before the notice": ("time limit", [KILLED, LATER], "failed", "rank 0: killed by signal 9"),
    "finished in time": ("time limit", [(FINISHED, "0 9 a")] * 2, "finished", None),
}


@pytest.mark.parametrize("name", OUTER)
def test_what_slurm_ended_is_stopped_and_not_failed(name: str, tmp_path: Path) -> None:
    why, ranks, outcome, reason = OUTER[name]
    notice(attempt_of(tmp_path, ranks), why)
    (tmp_path / "attempts/000/timeline.jsonl").write_text('{"time": 1.0, "event": "save", "iteration": 4}\n')
    result = verdict.compose(AttemptPaths(tmp_path / "attempts/000"), 2, 137, now=100.0)
    assert (result["outcome"], result["checkpoint"]) == (outcome, 4)
    assert str(result["reason"]).startswith(str(reason))
    assert result["stopped_by"] == (why if outcome == "stopped" else None)


def test_ranks_that_were_asked_to_stop_and_crashed_have_failed(tmp_path: Path) -> None:
    attempt_of(tmp_path, [(STOPPED, "0 11 a"), LATER])
    (tmp_path / "attempts/000/stop").write_text("launcher cancel --checkpoint\n")
    attempt = AttemptPaths(tmp_path / "attempts/000")
    assert verdict.compose(attempt, 2, 137, now=100.0)["outcome"] == "failed"
    leave(attempt, 1, "0 11 a")
    leave(attempt, 1, STOPPED)
    result = verdict.compose(attempt, 2, 0, now=100.0)
    assert (result["outcome"], result["stopped_by"], result["reason"]) == ("stopped", "asked", "requested")


def test_srun_says_why_a_rank_left_no_record(tmp_path: Path) -> None:
    attempt_of(tmp_path, [(FINISHED, "0 11 n1"), (None, "137 10 n1")])
    said = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
    (tmp_path / "attempts/000/logs").mkdir()
    (tmp_path / "attempts/000/logs/srun.log").write_text(f"{said}\n")
    result = verdict.compose(AttemptPaths(tmp_path / "attempts/000"), 2, 137, now=100.0)
    assert (result["outcome"], result["failure"]) == ("failed", "out of memory (host)")
    assert result["reason"] == f"rank 1: killed by signal 9 (SIGKILL) ({said})"


WATCHDOG = (
    "[rank{0}]:[E1125 10:00:00.000 ProcessGroupNCCL.cpp:684] [Rank {0}] Watchdog caught collective operation timeout:"
    " WorkNCCL(SeqNum=42, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600013 milliseconds"
)


def write_logs(directory: Path, logs: dict[int | str, str]) -> None:
    folder = directory / "attempts/000/logs"
    folder.mkdir(parents=True)
    for name, text in logs.items():
        (folder / (f"rank-{name:04d}.log" if isinstance(name, int) else name)).write_text(text)


@pytest.mark.parametrize("end", ["134 12 n2", "143 12 n2", "137 12 n2", None], ids=str)
def test_of_a_hang_the_rank_that_did_not_come_is_named(tmp_path: Path, end: str | None) -> None:
    """NCCL's watchdog aborts the ranks that waited; the one that never came is ended later, or aborts as well."""
    logs: dict[int | str, str] = {rank: f"step 3\n{WATCHDOG.format(rank)}\n" for rank in (0, 1, 3)}
    write_logs(tmp_path, {**logs, 2: "waiting for the data set's index file\n"})
    result = judge(tmp_path, [(None, f"134 {10 + rank} n1") if rank != 2 else (None, end) for rank in range(4)], 134)
    assert (result["failure"], result["first_failing_rank"]["rank"]) == ("hang", 2)
    assert result["first_failing_rank"]["what"] == "did not come to ALLREDUCE"
    assert result["reason"].startswith("rank 2 did not come to ALLREDUCE ([rank0]:[E1125")
    assert (result["evidence"]["ranks"], result["evidence"]["collective"]) == ([2], "ALLREDUCE")
    assert "stacks" in result["evidence"]["todo"]


def test_of_a_hang_in_which_all_ranks_waited_no_rank_is_blamed(tmp_path: Path) -> None:
    write_logs(tmp_path, {rank: WATCHDOG.format(rank) for rank in range(2)})
    result = judge(tmp_path, [(None, "134 10 a"), (None, "134 11 b")], 134)
    assert (result["failure"], result["evidence"]["ranks"]) == ("hang", [])
    assert result["first_failing_rank"]["what"] == "killed by signal 6 (SIGABRT)"


def test_the_flight_recorder_names_the_rank_where_logs_do_not(tmp_path: Path) -> None:
    write_logs(tmp_path, {rank: WATCHDOG.format(rank) for rank in range(4)})
    shutil.copytree(Path(__file__).parents[1] / "contract/flight_recorder/absent", tmp_path / "attempts/000/stacks")
    result = judge(tmp_path, [(None, "134 10 a")] * 4, 134)
    assert (result["first_failing_rank"]["rank"], result["evidence"]["ranks"]) == (2, [2])
    assert "rank 2 did not come to gloo:all_reduce 3 of default_pg" in result["reason"]


@pytest.mark.parametrize(
    ("logs", "failure", "node"),
    [
        ({"srun.log": "srun: error: Unable to create step for job 7: Invalid MPI type"}, "step not started", None),
        ({"srun.log": "srun: error: Node failure on n4\n"}, "hardware", "n4"),
        (
            {"srun.log": "slurmstepd: error: pyxis: couldn't start container\nsrun: error: n2: task 1: Exited"},
            "container",
            "n2",
        ),
        ({0: "OSError: [Errno 122] Disk quota exceeded: 'x'"}, "disk full", None),
        ({"srun.log": "srun: error: n1: task 0: Exited with exit code 1"}, None, None),
        ({}, None, None),
    ],
)
def test_ranks_that_left_nothing_are_explained_by_what_lies_beside(
    tmp_path: Path, logs: dict[int | str, str], failure: str | None, node: str | None
) -> None:
    write_logs(tmp_path, logs)
    result = judge(tmp_path, [(None, None), (None, None)], 1)
    assert (result["outcome"], result["failure"]) == ("failed", failure)
    assert (result["evidence"] or {"node": None})["node"] == node
    if failure:
        assert result["evidence"]["line"] in next(iter(logs.values()))
        assert f"({result['evidence']['line']})" in result["reason"]


def test_slurms_own_words_in_sbatch_log_count(tmp_path: Path) -> None:
    (tmp_path / "sbatch.log").write_text("*** JOB 7 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO NODE FAILURE ***\n")
    assert judge(tmp_path, [(None, None)], 1)["failure"] == "hardware"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO TIME LIMIT ***", "TIME LIMIT"),
        ("*** JOB 7 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***", "NODE FAILURE"),
        ("*** JOB 7 ON n1 CANCELLED AT 2026-01-31T10:00:00 ***", "CANCELLED"),
        ("*** JOB 8 ON n1 CANCELLED AT 2026-01-31T10:00:00 ***", None),
        ("*** STEP 7.0 ON n1 CANCELLED AT 2026-01-31T10:00:00 ***", None),  # srun ends a step whose task has failed
    ],
)
def test_why_slurm_ended_a_job_is_read_from_its_own_lines(line: str, words: str | None) -> None:
    assert verdict.slurm_words(["other words", line, "more"], "7") == words


def test_what_sbatch_log_has_of_another_attempt_does_not_count(tmp_path: Path) -> None:
    """A job that was requeued has the end of its earlier attempts in the same file."""
    attempt = RunPaths(tmp_path).attempt_paths("001")
    attempt.path.mkdir(parents=True)
    first = "*** JOB 7 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO NODE FAILURE ***\n"
    (tmp_path / "sbatch.log").write_text(f"{first}mine\ntheirs\n")
    attempt.start.write_text(f"nonce 7 - {len(first)}\n")
    assert verdict.said_in_sbatch_log(attempt) == "mine\ntheirs\n"
    later = RunPaths(tmp_path).attempt_paths("002")
    later.path.mkdir()
    later.start.write_text(f"nonce 7 - {len(first) + 5}\n")
    assert verdict.said_in_sbatch_log(attempt) == "mine\n"
    later.start.write_text(f"nonce 7 - {len(first)}\n")
    assert verdict.said_in_sbatch_log(attempt) == "", "an attempt of which nothing was said"
    later.start.unlink()
    attempt.start.write_text(f"nonce 7 - {len(first) + 12}\n")
    assert verdict.said_in_sbatch_log(attempt) == "", "nothing was said since the start"
    attempt.start.write_text("nonce 7 - 9999\n")
    assert first in verdict.said_in_sbatch_log(attempt), "a log that was cut is read from its start"


def test_an_error_of_its_own_needs_no_other_evidence(tmp_path: Path) -> None:
    write_logs(tmp_path, {"srun.log": "srun: error: Node failure on n4\n"})
    result = judge(tmp_path, [(record("failed"), "1 9 a")], 1)
    assert (result["failure"], result["reason"]) == ("user error", "rank 0: ValueError: bad")
    lost = record("failed", cause="communication", exception={"type": "RuntimeError", "message": "NCCL Error 6"})
    assert judge(tmp_path / "b", [(lost, "1 9 a")], 1)["failure"] == "network"


def test_nan_that_megatron_finds_is_divergence(tmp_path: Path) -> None:
    error = {"type": "AssertionError", "message": "Rank 0: found NaN in local grad norm in backward pass, node: n1"}
    result = judge(tmp_path, [(record("failed", exception=error), "1 9 a")], 1)
    assert (result["outcome"], result["failure"]) == ("diverged", "diverged")


@pytest.mark.parametrize(("loaded", "logged", "diverged_at"), [(None, [], 1), (8, [], 9), (8, [9, 10], 11)])
def test_the_first_bad_iteration_is_after_the_last_good_one_where_the_program_ended_at_once(
    tmp_path: Path, loaded: int | None, logged: list[int], diverged_at: int
) -> None:
    error = {
        "type": "RuntimeError",
        "message": "iteration 11: Unexpected result nan (message='found NaN in local grad')",
    }
    attempt_of(tmp_path, [(record("failed", exception=error), "1 9 a")])
    attempt = tmp_path / "attempts/000"
    if loaded is not None:
        event = {"time": 1.0, "event": "checkpoint_loaded", "seconds": 0.1, "iteration": loaded}
        (attempt / "timeline.jsonl").write_text(json.dumps(event) + "\n")
    lines = [json.dumps({**GOOD, "iteration": iteration}) for iteration in logged]
    (attempt / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    result = verdict.compose(AttemptPaths(attempt), 1, 1, now=100.0)
    assert (result["outcome"], result["diverged_at"]) == ("diverged", diverged_at)


@pytest.mark.parametrize(
    ("before", "failure"),
    [
        ({"outcome": "failed", "iteration": 5, "failure": "program error"}, "poisoned"),
        ({"outcome": "failed", "iteration": 5, "failure": "poisoned"}, "poisoned"),
        ({"outcome": "failed", "iteration": 4, "failure": "program error"}, "program error"),
        ({"outcome": "failed", "iteration": 5, "failure": "hardware"}, "program error"),
        ({"outcome": "stopped", "iteration": 5, "failure": None}, "program error"),
        (None, "program error"),
    ],
    ids=str,
)
def test_a_step_at_which_two_attempts_fail_is_poisoned(
    tmp_path: Path, before: dict[str, Any] | None, failure: str
) -> None:
    attempt_of(tmp_path, [(record("failed", exception={"type": "RuntimeError", "message": "odd"}), "1 9 a")])
    (tmp_path / "attempts/000").rename(tmp_path / "attempts/001")
    if before is not None:
        (tmp_path / "attempts/000").mkdir()
        (tmp_path / "attempts/000/result.json").write_text(json.dumps(before))
    result = verdict.compose(AttemptPaths(tmp_path / "attempts/001"), 1, 1, now=100.0)
    assert result["failure"] == failure


def test_a_machine_that_fails_twice_at_a_step_does_not_poison_it(tmp_path: Path) -> None:
    error = {"type": "AcceleratorError", "message": "CUDA error: uncorrectable ECC error encountered"}
    attempt_of(tmp_path, [(record("failed", exception=error), "1 9 a")])
    shutil.copytree(tmp_path / "attempts/000", tmp_path / "attempts/001")
    (tmp_path / "attempts/000/result.json").write_text('{"outcome": "failed", "iteration": 5, "failure": "hardware"}')
    assert verdict.compose(AttemptPaths(tmp_path / "attempts/001"), 1, 1, now=100.0)["failure"] == "hardware"


def test_a_node_whose_clock_is_ahead_is_not_taken_for_the_last(tmp_path: Path) -> None:
    """Rank 0 failed first, by a clock that is an hour ahead; rank 1 failed after it."""
    ahead = 3600.0
    ranks: list[tuple[Any, str | None]] = [
        (
            record("failed", time=5 + ahead, host="a", exception={"type": "E", "message": "first"}),
            f"1 {10.5 + ahead} a",
        ),
        (record("failed", time=9, host="b", exception={"type": "E", "message": "second"}), "1 10 b"),
        (None, "143 10.5 c"),
    ]
    first = judge(tmp_path, ranks, 1)["first_failing_rank"]
    assert first is not None
    assert first["rank"] == 0


def test_the_node_of_broken_hardware_is_named(tmp_path: Path) -> None:
    error = {"type": "AcceleratorError", "message": "CUDA error: uncorrectable ECC error encountered"}
    result = judge(tmp_path, [(record("failed", host="n7", exception=error), "1 9 n7")], 1)
    assert result["evidence"] is not None
    assert (result["failure"], result["evidence"]["node"]) == ("hardware", "n7")


def test_the_node_of_a_rank_that_left_nothing_is_named(tmp_path: Path) -> None:
    attempt_of(tmp_path, [(record("finished", host="n1"), "0 9 n1"), (None, None)])
    attempt = AttemptPaths(tmp_path / "attempts" / "000")
    attempt.nodes.write_text("n1\nn2\n")
    first = verdict.compose(attempt, 2, 1, now=100.0)["first_failing_rank"]
    assert first is not None
    assert (first["rank"], first["host"]) == (1, "n2")


# ---- what watchdogs have seen


def sighted(rank: int, **more: Any) -> dict[str, Any]:
    base = {"rank": rank, "pid": 1, "phase": "training step", "steps": 4, "silent_s": 300.0, "state": "S"}
    return {**base, "stack": [], "collectives": [], **more}


def node_record(number: int, *ranks: dict[str, Any], stage: str = "ended") -> dict[str, Any]:
    base = {"version": 1, "time": 9.0, "node": number, "host": f"n{number + 1}", "stage": stage, "limit_s": 300.0}
    return {**base, "silent_s": 301.0, "ranks": list(ranks), "notes": []}


IN_CALL = {"group": "tp", "seq": 7, "op": "nccl:all_reduce", "state": "pending", "sizes": ""}
WAITING = {"collectives": [IN_CALL]}
LOOPS = {"stack": ["load /runs/a/b/code/recipe/data.py:3"]}


def hung(directory: Path, *nodes: dict[str, Any], ends: Any = ((None, "137 9 n1"), (None, None))) -> Any:
    (directory / "attempts/000/stacks").mkdir(parents=True)
    for node in nodes:
        (directory / f"attempts/000/stacks/node-{node['node']:04d}.json").write_text(json.dumps(node))
    return judge(directory, list(ends), status=137)


def test_a_hang_names_the_rank_that_the_others_waited_for(tmp_path: Path) -> None:
    result = hung(
        tmp_path, node_record(0, sighted(0, **WAITING)), node_record(1, sighted(1, **LOOPS), stage="suspected")
    )
    assert (result["outcome"], result["failure"]) == ("failed", "hang")
    assert result["reason"] == (
        "hang: rank 1 has not joined the collective: in training step 5, in load (code/recipe/data.py:3);"
        " rank 0 waits in all_reduce 7 of tp; no progress for 301 s"
    )
    first = result["first_failing_rank"]
    assert (first["rank"], first["host"], first["where"]) == (1, "n2", "load (code/recipe/data.py:3)")
    assert (result["evidence"]["ranks"], result["evidence"]["collective"]) == ([1], "all_reduce 7 of tp")


def test_of_a_hang_in_which_no_rank_differs_none_is_named(tmp_path: Path) -> None:
    result = hung(tmp_path, node_record(0, sighted(0, **WAITING), sighted(1, **WAITING)))
    assert (result["failure"], result["first_failing_rank"], result["evidence"]["ranks"]) == ("hang", None, [])
    assert "no rank differs" in result["reason"]


def recorded(*names: str, pending: int) -> str:
    """A dump of NCCL's flight recorder: these calls of one group, not complete from the number `pending` on."""
    entries = [
        {
            "process_group": ["0", "default_pg"],
            "collective_seq_id": number,
            "profiling_name": f"nccl:{name}",
            "state": "completed" if number < pending else "started",
            "input_sizes": [],
            "input_dtypes": [],
        }
        for number, name in enumerate(names, 1)
    ]
    return json.dumps({"version": "2.10", "pg_config": {}, "entries": entries})


def test_of_two_ranks_in_different_collectives_the_one_that_left_its_way_is_named(tmp_path: Path) -> None:
    """Seen with NCCL: it pairs both, and the rank that did as always waits one call earlier than the other one."""
    calls = {0: IN_CALL, 1: {**IN_CALL, "seq": 8}}
    seen = node_record(0, *(sighted(rank, collectives=[call]) for rank, call in calls.items()))
    stacks = tmp_path / "attempts/000/stacks"
    stacks.mkdir(parents=True)
    step = ("all_reduce", "all_gather")
    (stacks / "flight-recorder-rank-0").write_text(recorded(*step * 4, pending=7))
    (stacks / "flight-recorder-rank-1").write_text(recorded(*step * 3, "all_gather", "barrier", pending=8))
    (stacks / "node-0000.json").write_text(json.dumps(seen))
    result: Any = judge(tmp_path, [(None, "137 9 n1"), (None, "137 9 n1")], status=137)
    assert result["reason"] == (
        "hang: rank 1 entered nccl:all_gather where others entered nccl:all_reduce 7 of default_pg;"
        " rank 0 waits in all_reduce 7 of tp; no progress for 301 s"
    )
    assert (result["first_failing_rank"]["rank"], result["evidence"]["ranks"]) == (1, [1])
    (stacks / "flight-recorder-rank-1").unlink()
    result = verdict.compose(AttemptPaths(stacks.parent), 2, 137, now=100.0)
    assert result["reason"].startswith("hang: rank 0 is behind")


def test_a_rank_that_had_ended_before_is_the_cause_of_the_silence(tmp_path: Path) -> None:
    """Seen with NCCL: rank 1 is killed, the other waits in a collective until the watchdog ends it."""
    seen = node_record(0, sighted(0, **WAITING), sighted(1, phase="ended"))
    result = hung(tmp_path, seen, ends=[(None, "137 9.1 n1"), (None, "137 3 n1")])
    assert result["failure"] != "hang"
    assert result["first_failing_rank"]["rank"] == 1


@pytest.mark.parametrize("stage", ["suspected", "busy"])
def test_what_was_only_suspected_is_not_a_hang(tmp_path: Path, stage: str) -> None:
    result = hung(
        tmp_path, node_record(0, sighted(0), sighted(1), stage=stage), ends=[(None, "139 8 n1"), (None, "143 9 n1")]
    )
    assert result["failure"] != "hang"
    assert result["first_failing_rank"]["rank"] == 0


def test_ranks_that_ended_well_have_not_hung(tmp_path: Path) -> None:
    result = hung(
        tmp_path, node_record(0, sighted(0), sighted(1)), ends=[(FINISHED, "137 9 n1"), (FINISHED, "137 9 n1")]
    )
    assert result["outcome"] == "finished"


@pytest.mark.parametrize("text", ["", "[]", '{"stage": "ended", "ranks": [{}]}'])
def test_a_record_of_another_form_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "attempts/000/stacks").mkdir(parents=True)
    (tmp_path / "attempts/000/stacks/node-0000.json").write_text(text)
    assert judge(tmp_path, [(record("failed"), "1 9 n1")], status=1)["first_failing_rank"]["what"] == "ValueError: bad"
