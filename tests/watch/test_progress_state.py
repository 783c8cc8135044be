"""The progress of an attempt from its own lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.watch.progress_state import AttemptProgress, advance, clock, describe
from launcher.watch.tail import FileTail, last_lines
from tests.watch.run_dirs import iteration


def after(*lines: dict[str, Any]) -> AttemptProgress:
    return advance(AttemptProgress(), [json.dumps(line) for line in lines])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (None, "starting the program"),
        ("imports", "setting up process groups"),
        ("process_groups", "building the model"),
        ("model", "preparing data"),
        ("train_start", "in the first iteration"),
        ("something_new", "starting the program"),
    ],
)
def test_what_is_waited_for_before_the_first_iteration(event: str | None, words: str) -> None:
    assert describe(after(*([{"event": event, "time": 1}] if event else []))) == words


def test_a_resumed_attempt_says_so() -> None:
    state = after({"event": "model"}, {"event": "checkpoint_loaded", "iteration": 40}, {"event": "train_start"})
    assert describe(state) == "in the first iteration (continuing after iteration 40)"


def test_a_save_that_could_not_fit_is_shown_until_one_succeeds() -> None:
    lines = [{"iteration": 10, "train_iters": 20, "time": 1.0}, {"event": "no_space", "iteration": 10, "time": 1.0}]
    state = advance(AttemptProgress(), map(json.dumps, lines))
    assert describe(state) == "iteration 10/20 | no space for the save of iteration 10"
    state = advance(state, [json.dumps({"event": "save", "iteration": 15, "time": 2.0})])
    assert describe(state) == "iteration 10/20"


def test_a_resumed_attempt_says_what_was_verified_of_its_checkpoint() -> None:
    event = {"event": "checkpoint_verified", "iteration": 40, "verification": {"state": "partly verified"}}
    state = after({"event": "imports"}, event)
    assert describe(state) == "setting up process groups (continuing after iteration 40, checkpoint partly verified)"
    assert (state.loaded, state.verified) == (40, "partly verified")


def test_numbers_of_an_iteration() -> None:
    state = after(iteration(1, seconds=30.0), iteration(2), iteration(3, tflops_per_gpu=412.34))
    assert describe(state) == "iteration 3/20 | loss 7 | 0.500 s/iteration | 412.3 TFLOP/s/GPU | 0:00:08 left"
    assert state.seconds_left == 8.5
    assert describe(after(iteration(20))) == "iteration 20/20 | loss -10 | 0.500 s/iteration"


def test_the_first_iteration_counts_only_while_it_is_the_only_one() -> None:
    assert after(iteration(7, seconds=30.0)).seconds_per_iteration == 30.0
    assert after(iteration(7, seconds=30.0), iteration(8, seconds=1.0)).recent == (1.0,)
    assert len(after(*(iteration(number) for number in range(1, 100))).recent) == 20


def test_a_loss_that_is_not_a_number_is_left_out() -> None:
    assert "loss" not in describe(after(iteration(1), iteration(2, loss=None)))


def test_what_rank_0_says_at_the_end_and_of_checkpoints() -> None:
    state = after(iteration(1), {"event": "save", "iteration": 1}, {"event": "end", "outcome": "stopped", "time": 99.0})
    assert (state.saved, state.ended, state.time) == (1, "stopped", 99.0)


@given(
    st.lists(
        st.one_of(
            st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
        )
    )
)
def test_no_line_makes_it_fail(lines: list[str]) -> None:
    assert advance(AttemptProgress(), lines) == AttemptProgress()


@given(
    st.dictionaries(
        st.sampled_from(["iteration", "event", "seconds", "loss", "train_iters", "time"]), st.floats() | st.text()
    )
)
def test_no_values_make_it_fail(line: dict[str, Any]) -> None:
    describe(advance(AttemptProgress(), [json.dumps(line)]))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (70.4, "0:01:10"), (3600, "1:00:00"), (183600, "2d 03:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_growing_file_is_read_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = FileTail(path)
    assert tail.read() == []
    path.write_bytes("one\ntw\u00f6".encode()[:-1])
    assert tail.read() == ["one"]
    with path.open("ab") as file:
        file.write("\u00f6".encode()[-1:] + b"\nthree")
    assert tail.read() == ["tw\u00f6"]
    assert tail.read(unfinished=True) == ["three"]
    assert tail.read(unfinished=True) == []


def test_a_file_that_was_cut_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    tail = FileTail(path)
    assert tail.read() == ["one", "two"]
    path.write_text("3\n")
    assert tail.read() == ["3"]
    (tmp_path / "new").write_text("four\nfive\n")
    (tmp_path / "new").rename(path)
    assert tail.read() == ["four", "five"]


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text("".join(f"{number:07d}\n" for number in range(100_000)) + "half")
    lines = last_lines(path, size=1000)
    assert lines[-1] == "0099999"
    assert 100 < len(lines) < 130
    assert all(len(line) == 7 for line in lines)
    assert last_lines(tmp_path / "none") == []
