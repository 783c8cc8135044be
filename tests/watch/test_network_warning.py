"""The warning in `launcher status` about an unexpected network."""

import time
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer, Job, State
from launcher.watch.run_state import read_run_state
from launcher.watch.status import judge
from launcher.watch.status_table import row
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

NOW = BEGIN + 100
WORDS = "rank 0: node n1: NCCL uses network Socket, and efa is expected"
ENDED: dict[str, Any] = {
    "outcome": "failed",
    "reason": WORDS,
    "first_failing_rank": {"rank": 0, "host": "n1", "what": WORDS.partition(": ")[2], "cause": "network"},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs" / "small" / "0001", *submitted())


def warned(run: RunDirectory, *ranks: int, result: dict[str, Any] | None = None) -> None:
    """An attempt in which the first ranks of these nodes have left a warning."""
    attempt = make_attempt(run, metrics=(iteration(1),), result=result, written=time.time())
    (attempt.path / "network").mkdir()
    for rank in ranks:
        (attempt.path / f"network/{rank:04d}.json").write_text("{}")
        (attempt.path / f"network/{rank:04d}.warning").write_text(f"{WORDS.replace('rank 0', f'rank {rank}')}\n")


def shown(run: RunDirectory, state: State) -> tuple[str, str | None]:
    """The last column of the table, and what programs are given."""
    status = judge(read_run_state(run), job := Job("12", state, terminal=state.terminal), Answer({"12": job}, NOW))
    return row(status, NOW)[-1], status.to_dict()["network"]


def test_a_warning_is_shown_while_the_run_goes_on(run: RunDirectory) -> None:
    warned(run, 0)
    assert shown(run, State.RUNNING) == (f"network: {WORDS}", WORDS)


def test_of_several_nodes_one_is_shown_and_the_others_counted(run: RunDirectory) -> None:
    warned(run, 16, 8, 24)
    detail, words = shown(run, State.RUNNING)
    assert words is not None
    assert words.startswith("rank 8: node n1: ")
    assert detail.endswith("(and 2 more nodes)")


def test_it_stays_when_the_run_has_finished(run: RunDirectory) -> None:
    warned(run, 0, result={"outcome": "finished", "iteration": 1})
    assert shown(run, State.COMPLETED)[0] == f"iteration 1/20, loss 9 | network: {WORDS}"


def test_a_run_that_has_ended_for_it_says_so_once(run: RunDirectory) -> None:
    warned(run, 0, result=ENDED)
    assert shown(run, State.FAILED)[0].count("NCCL uses network Socket") == 1


def test_a_run_without_a_warning_says_nothing(run: RunDirectory) -> None:
    warned(run)
    assert shown(run, State.RUNNING) == ("", None)
