"""What srun and Slurm have said: shown before a rank gives a sign, and where there is no verdict."""

import io
from pathlib import Path

import pytest

from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer, Job, State
from launcher.watch.follower import Follower
from launcher.watch.outside import outside_words
from launcher.watch.run_state import read_run_state
from launcher.watch.status import Phase, RunStatus, _ended_meanwhile, judge
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

BUSY = "srun: Job 12 step creation temporarily disabled, retrying (Requested nodes are busy)"
REFUSED = "srun: error: Unable to create step for job 12: Invalid MPI type"
PYXIS = "slurmstepd: error: pyxis: couldn't start container"
NODE = "srun: error: Node failure on n4"
CANCELLED = "slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED AT 2026-01-31T10:00:00 ***"
ENDED = "srun: error: n1: task 0: Exited with exit code 1"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs" / "small" / "0001", *submitted())


def say(run: RunDirectory, *lines: str, log: str = "srun") -> None:
    attempt = run.latest_attempt()
    assert attempt is not None
    path = attempt.srun_log if log == "srun" else run.sbatch_log
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def judged(run: RunDirectory, state: State) -> RunStatus:
    job = Job("12", state, terminal=state.terminal)
    return judge(_ended_meanwhile(run, read_run_state(run), job), job, Answer({"12": job}, BEGIN + 100))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((BUSY,), BUSY),
        (("pyxis: importing docker image ...",), None),
        (("pyxis: importing docker image ...", PYXIS, ENDED), PYXIS),
        ((ENDED, CANCELLED), None),
        (("srun: warning: can't honor --ntasks-per-node",), None),
        (("srun: error: something that no rule knows", ENDED), "srun: error: something that no rule knows"),
        (("srun: error: " + "x" * 500,), "srun: error: " + "x" * 224 + "..."),
        ((), None),
    ],
    ids=str,
)
def test_the_line_that_says_most(run: RunDirectory, lines: tuple[str, ...], words: str | None) -> None:
    make_attempt(run)
    say(run, *lines)
    assert outside_words(run, run.latest_attempt()) == words


def test_sbatch_log_is_asked_where_srun_says_nothing(run: RunDirectory) -> None:
    make_attempt(run)
    say(run, "launcher: scontrol cannot list the nodes", log="sbatch")
    assert outside_words(run, run.latest_attempt()) == "launcher: scontrol cannot list the nodes"
    say(run, PYXIS)
    assert outside_words(run, run.latest_attempt()) == PYXIS
    assert outside_words(run, None) == "launcher: scontrol cannot list the nodes"


def test_a_step_that_waits_says_so_while_no_rank_has_begun(run: RunDirectory) -> None:
    make_attempt(run)
    say(run, BUSY)
    status = judged(run, State.RUNNING)
    assert (status.phase, BUSY in status.detail) == (Phase.STARTING, True)
    shown = io.StringIO()
    with Follower(run, stream=shown):
        pass
    assert BUSY in shown.getvalue()


def test_once_a_rank_has_begun_srun_is_not_quoted(run: RunDirectory) -> None:
    make_attempt(run, metrics=(iteration(1),))
    say(run, BUSY)
    assert BUSY not in judged(run, State.RUNNING).detail


@pytest.mark.parametrize("line", [REFUSED, PYXIS])
def test_a_job_without_a_verdict_is_judged_by_what_srun_said(run: RunDirectory, line: str) -> None:
    make_attempt(run)
    say(run, line, ENDED)
    status = judged(run, State.FAILED)
    assert (status.phase, line in status.detail, "sbatch.log" in status.detail) == (Phase.FAILED, True, False)
    forgotten = judged(run, State.FORGOTTEN)
    assert (forgotten.phase, line in forgotten.detail) == (Phase.FAILED, True)


def test_a_node_that_failed_is_named(run: RunDirectory) -> None:
    make_attempt(run)
    say(run, NODE)
    assert judged(run, State.NODE_FAIL).detail == f"a node failed: {NODE}"


def test_an_empty_sbatch_log_is_not_referred_to(run: RunDirectory) -> None:
    make_attempt(run)
    assert judged(run, State.FAILED).detail == "FAILED"
    say(run, "some output", log="sbatch")
    assert judged(run, State.FAILED).detail == "FAILED; see sbatch.log"


def test_lost_only_where_nothing_says_more(run: RunDirectory) -> None:
    make_attempt(run)
    assert judged(run, State.FORGOTTEN).phase is Phase.LOST
    attempt = run.latest_attempt()
    assert attempt is not None
    attempt.ranks.mkdir(exist_ok=True)
    log = attempt.log(0)
    log.parent.mkdir(exist_ok=True)
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n")
    status = judged(run, State.FORGOTTEN)
    assert status.phase is Phase.FAILED
    assert "CUDA out of memory" in status.detail
