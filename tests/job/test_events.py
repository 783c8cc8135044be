"""The callback, against stand-ins for what Bridge hands to it; the real thing runs in test_training.py."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.contract.files import JsonLines
from launcher.job.rank import Rank, read_rank
from launcher.job.watch.events import Events, Timeline
from launcher.job.watch.metrics import Metrics
from tests.job.ranks import rank_environment


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return read_rank(rank_environment(tmp_path, 0, 1))


@pytest.fixture
def received() -> Iterator[list[int]]:
    numbers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGUSR1, before)


def state(handler: bool = True) -> Any:
    train = SimpleNamespace(train_iters=5, exit_signal_handler=handler, exit_signal=signal.SIGUSR1)
    return SimpleNamespace(
        cfg=SimpleNamespace(train=train, model=SimpleNamespace(seq_length=16)),
        train_state=SimpleNamespace(step=0, consumed_train_samples=0, floating_point_operations_so_far=0.0),
        timers=SimpleNamespace(_timers={}),
        signal_handler=SimpleNamespace(signals_received=lambda: [False, True]),
    )


def context(of: Any, loss: float = 2.5, **more: Any) -> Any:
    optimizer = SimpleNamespace(
        param_groups=[{"lr": 0.5, "is_decoupled_lr": False}, {"lr": 9.0, "is_decoupled_lr": True}]
    )
    fields = {"loss_dict": {"lm loss": loss}, "grad_norm": 1.5, "skipped_iter": False, "optimizer": optimizer, **more}
    return SimpleNamespace(state=of, **fields)


def count(of: Any) -> None:
    """What Bridge does after an iteration's callbacks."""
    of.train_state.step += 1
    of.train_state.consumed_train_samples += 4
    of.train_state.floating_point_operations_so_far += 3e12


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_iteration_is_written_once_bridge_has_counted_it(rank: Rank) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    path = rank.paths.path / "metrics.jsonl"
    events.train_start(context(of))
    events.train_step_start(context(of))
    events.train_step_end(context(of))
    assert lines(path) == []
    count(of)
    events.train_step_start(context(of))
    [line] = lines(path)
    assert (line["iteration"], line["loss"], line["grad_norm"], line["learning_rate"]) == (1, 2.5, 1.5, 0.5)
    assert line["tokens"] == 4 * 16
    assert line["tflops_per_gpu"] == pytest.approx(3 / line["seconds"])
    assert "losses" not in line


def test_the_last_iteration_is_written_however_the_loop_is_left(rank: Rank) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    events.train_start(context(of))
    events.train_step_end(context(of, loss_dict={"lm loss": 1.0, "mtp loss": 2.0}))
    count(of)
    events.flush(wait=True)
    events.flush(wait=True)
    [line] = lines(rank.paths.path / "metrics.jsonl")
    assert line["losses"] == {"mtp loss": 2.0}


def test_an_iteration_in_which_the_rank_failed_is_not_written(rank: Rank) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    events.train_start(context(of))
    events.train_step_end(context(of))
    events.flush(wait=False)
    assert lines(rank.paths.path / "metrics.jsonl") == []


def test_time_for_saving_and_evaluation_belongs_to_no_iteration(rank: Rank) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    events.train_start(context(of))
    for pause in (
        lambda: events.checkpoint_save(context(of)),
        lambda: events.eval_end(context(of, total_loss_dict={})),
    ):
        events.train_step_start(context(of))
        events.train_step_end(context(of))
        count(of)
        time.sleep(0.2)
        pause()  # type: ignore[no-untyped-call]
    events.train_step_start(context(of))
    events.train_step_end(context(of))
    count(of)
    events.flush(wait=True)
    assert all(line["seconds"] < 0.1 for line in lines(rank.paths.path / "metrics.jsonl"))


def test_only_the_last_rank_writes_metrics_and_only_the_first_the_timeline(tmp_path: Path) -> None:
    for number in range(3):
        rank = read_rank(rank_environment(tmp_path, number, 3))
        events, of = Events(rank, "cpu", Timeline(rank)), state()
        events.train_start(context(of))
        events.train_step_end(context(of, loss=float(number)))
        count(of)
        events.train_end(context(of))
    assert [line["loss"] for line in lines(tmp_path / "attempts" / "000" / "metrics.jsonl")] == [2.0]
    assert {line["rank"] for line in lines(tmp_path / "attempts" / "000" / "timeline.jsonl")} == {0}


def test_numbers_that_are_still_on_their_way_are_waited_for_only_when_they_must_be(rank: Rank) -> None:
    metrics, of = Metrics(rank, "cpu"), state()
    asked: list[str] = []
    metrics.measure(context(of), 1.0)
    assert metrics._waiting is not None
    metrics._waiting.ready = SimpleNamespace(query=lambda: False, synchronize=lambda: asked.append("waited"))
    count(of)
    metrics.settle(of, wait=False)
    assert (asked, lines(rank.paths.path / "metrics.jsonl")) == ([], [])
    metrics.measure(context(of), 1.0)
    assert asked == ["waited"]
    assert [line["iteration"] for line in lines(rank.paths.path / "metrics.jsonl")] == [1]


def test_the_stop_file_raises_the_signal_that_bridge_listens_to_once(rank: Rank, received: list[int]) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    events.train_step_end(context(of))
    assert received == []
    (rank.paths.path / "stop").touch()
    events.train_step_end(context(of))
    events.train_step_end(context(of))
    assert received == [signal.SIGUSR1]


def test_without_bridges_handler_the_stop_file_is_refused_not_deadly(rank: Rank, received: list[int]) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state(handler=False)
    (rank.paths.path / "stop").touch()
    events.train_step_end(context(of))
    assert received == []
    refusal = lines(rank.paths.path / "timeline.jsonl")[-1]
    assert (refusal["event"], refusal["reason"]) == ("stop_refused", "train.exit_signal_handler=false")


def test_a_signal_that_any_rank_got_is_noted(rank: Rank) -> None:
    events, of = Events(rank, "cpu", Timeline(rank)), state()
    events.train_start(context(of))
    assert events.progress.signalled is False
    assert of.signal_handler.signals_received() == [False, True]
    assert events.progress.signalled is True


def test_numbers_that_json_lacks_become_null_by_name(tmp_path: Path) -> None:
    JsonLines(tmp_path / "x.jsonl").append({"loss": float("nan"), "norm": float("inf"), "lr": 0.1})
    assert lines(tmp_path / "x.jsonl") == [{"loss": None, "norm": None, "lr": 0.1, "not_finite": ["loss", "norm"]}]
