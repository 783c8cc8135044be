"""The history of a run: what is kept of each attempt, what was lost, and what is unknown."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util.shell import LocalShell
from launcher.contract.files import write_json
from launcher.watch.history import AttemptHistory, History, history_of, lines, with_kept
from launcher.watch.status import RunStatus, status_of
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run


def attempt(first: int | None, reached: int | None, **values: Any) -> AttemptHistory:
    base: dict[str, Any] = {"attempt": "000", "kind": "failed", "why": None, "next": None, "ended_because": None}
    base |= {"kept": None, "seconds": 100.0, "seconds_per_iteration": 1.0, "ranks": 8}
    return AttemptHistory(**{**base, "first": first, "reached": reached, **values})


def kept(*attempts: AttemptHistory, newest_save: int | None = None) -> list[int | None]:
    return [each.kept for each in with_kept(attempts, newest_save)]


def test_what_is_computed_again_was_lost() -> None:
    assert kept(attempt(0, 30), attempt(25, 60), attempt(55, 100)) == [25, 30, 45]
    assert kept(attempt(0, 30), attempt(25, 60), newest_save=50) == [25, 25]
    assert kept(attempt(0, 30), attempt(25, 60), attempt(10, 100)) == [10, 0, 90], "diverged, and went back"
    assert kept(attempt(0, 30), attempt(25, None), attempt(25, 60)) == [25, 0, 35]
    assert kept(attempt(0, 30), attempt(None, 60)) == [None, None]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6))
def test_no_iteration_counts_twice(spans: list[tuple[int, int]]) -> None:
    attempts = [attempt(first, first + count) for first, count in spans]
    found = with_kept(attempts, None)
    assert sum(each.kept or 0 for each in found) <= attempts[-1].reached  # type: ignore[operator]
    assert all(each.kept is not None and 0 <= each.kept <= each.reached - each.first for each in found)  # type: ignore[operator]
    assert 0 <= (History(found).goodput or 0) <= 1


def test_goodput_is_weighted_by_ranks_and_unknown_where_one_part_is() -> None:
    one, two = attempt(0, 50, kept=50, ranks=8), attempt(50, 60, kept=10, ranks=16)
    history = History((one, two))
    assert history.goodput == pytest.approx((50 * 8 + 10 * 16) / (100 * 8 + 100 * 16))
    assert (history.lost_iterations, history.lost_seconds) == (0, 140)
    unknown = History((one, attempt(50, 60, kept=10, seconds=None)))
    assert (unknown.goodput, unknown.lost_seconds) == (None, None)
    assert lines(unknown)[0] == "2 attempts, 0 iterations and unknown lost, goodput unknown"


@pytest.fixture
def status(tmp_path: Path) -> RunStatus:
    """A run that crashed after 12 of 20 iterations with a checkpoint of 10, was requeued, and then ended for good."""
    run = make_run(tmp_path / "name/run", {"event": "submit_intent", "token": "token-1"}, {"event": "submit_refused"})
    for number, (first, reached, saved) in enumerate([(0, 12, 10), (10, 15, 15)]):
        begin = BEGIN + 100 * number
        timeline: list[dict[str, Any]] = [{"time": begin + 5, "rank": 0, "event": "imports", "seconds": 5.0}]
        if first:
            timeline.append({"time": begin + 6, "rank": 0, "event": "checkpoint_loaded", "iteration": first})
        timeline += [
            {"time": begin + 6, "rank": 0, "event": "train_start", "seconds": None},
            {"time": begin + 20, "rank": 0, "event": "save", "seconds": 1.0, "iteration": saved},
        ]
        metrics = tuple(iteration(step) for step in range(first + 1, reached + 1))
        result = {"outcome": "failed", "reason": "rank 1: killed", "iteration": reached, "seconds_per_iteration": 0.5}
        made = make_attempt(
            run, number, metrics=metrics, timeline=tuple(timeline), result={**result, "ended": begin + 50}
        )
        last = number == 1
        decided = {"action": "end" if last else "requeue", "reason": "poisoned" if last else "lost", "kind": "program"}
        write_json(made.next_file, {"version": 1, "time": 0, "token": None, **decided})
    return status_of([run], LocalShell())[0][0]


def test_the_history_of_a_run_on_disk(status: RunStatus) -> None:
    history = history_of(status)
    assert [(each.first, each.reached, each.kept, each.seconds) for each in history.attempts] == [
        (0, 12, 10, 50.0),
        (10, 15, 5, 50.0),
    ]
    assert [(each.next, each.ended_because) for each in history.attempts] == [("requeued", None), (None, "poisoned")]
    assert (history.lost_iterations, history.lost_seconds, history.goodput) == (2, 92.5, 0.075)
    assert lines(history) == [
        "2 attempts, 2 iterations and 0:01:32 lost, goodput 7.5%",
        "000: iterations 0 to 12 in 0:00:50; program (rank 1: killed); 2 lost; requeued",
        "001: iterations 10 to 15 in 0:00:50; program (rank 1: killed); not continued: poisoned",
    ]


def test_damaged_files_leave_unknown_values(status: RunStatus) -> None:
    attempts = status.run_state.path / "attempts"
    (attempts / "000/timeline.jsonl").write_bytes(b"\xff{}\n[1]\nnull\n")
    (attempts / "001/next.json").write_text("[]")
    (attempts / "001/result.json").write_text("{}")
    history = history_of(status)
    assert (history.attempts[0].seconds, history.goodput) == (None, None)
    assert history.to_dict()["history"][0]["lost_iterations"] is None
    assert "unknown" in "\n".join(lines(history))
