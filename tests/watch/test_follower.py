"""Live progress of a run, on a terminal and without one."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from launcher._util.shell import Result
from launcher.rundir import Attempt, RunDirectory
from launcher.slurm.poller import Poller
from launcher.watch.follower import Follower
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Scene:
    """A run that goes on while it is watched, on a clock of its own."""

    def __init__(self, run: RunDirectory, stream: io.StringIO, poller: Poller | None = None) -> None:
        self.run, self.stream, self.now = run, stream, BEGIN + 30
        self.follower = Follower(run, poller, stream=stream, clock=lambda: self.now)

    def add(self, attempt: Attempt, *lines: dict[str, Any]) -> None:
        for line in lines:
            path = attempt.timeline if "event" in line else attempt.metrics
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.follower.tick()

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small" / "1", *submitted())


def test_plain_lines_are_few_but_first_and_last_are_there(run: RunDirectory) -> None:
    scene = Scene(run, io.StringIO())
    with scene.follower:
        attempt = make_attempt(run)
        scene.wait(1)
        scene.add(attempt, {"event": "imports"}, {"event": "process_groups"})
        scene.wait(2)
        for number in range(1, 51):
            scene.add(attempt, iteration(number, of=50, seconds=1.0))
            scene.wait(1)
        scene.add(attempt, {"event": "end", "outcome": "finished"})
        scene.wait(1)
    shown = [line.split(" | ")[0] for line in scene.lines()]
    assert shown[:3] == ["starting the program", "building the model", "iteration 1/50"]
    assert shown[-1] == "iteration 50/50"
    assert 6 <= len(shown) <= 10, shown
    assert len(set(shown)) == len(shown)


def test_a_long_start_is_named_again(run: RunDirectory) -> None:
    scene = Scene(run, io.StringIO())
    with scene.follower:
        scene.wait(100)
        assert len(scene.lines()) == 1  # a queue may take days
        make_attempt(run)
        scene.wait(65)
        first, second, third = scene.lines()[1:]
    assert first.startswith("starting the program")
    assert [second, third] in ([f"{first}, for {one} s", f"{first}, for {two} s"] for one, two in ((30, 60), (31, 61)))


def test_an_early_end_is_shown_with_its_last_iteration(run: RunDirectory) -> None:
    scene = Scene(run, io.StringIO())
    with scene.follower:
        attempt = make_attempt(run)
        scene.add(attempt, iteration(1))
        scene.wait(1)
        scene.add(attempt, iteration(2), iteration(3), {"event": "end", "outcome": "stopped"})
        scene.wait(1)
    assert [line.split(" | ")[0] for line in scene.lines()] == ["iteration 1/20", "iteration 3/20"]


def test_the_last_news_are_read_on_leaving(run: RunDirectory) -> None:
    scene = Scene(run, io.StringIO())
    attempt = make_attempt(run)
    with scene.follower:
        scene.add(attempt, iteration(1), iteration(20))
    assert scene.lines()[-1].startswith("iteration 20/20")


def test_the_next_attempt_is_followed_and_old_ones_are_not(run: RunDirectory) -> None:
    make_attempt(run, 0, metrics=(iteration(9),), nonce="token-0")
    scene = Scene(run, io.StringIO())
    with scene.follower:
        scene.wait(1)
        assert scene.lines() == ["starting"]
        scene.add(make_attempt(run, 1), iteration(10))
        scene.wait(1)
        scene.add(make_attempt(run, 2), iteration(15))
        scene.wait(1)
    assert [line.split(" | ")[0] for line in scene.lines()] == [
        "starting",
        "iteration 10/20",
        "attempt 002 starts",
        "iteration 15/20",
    ]


def test_the_queue_is_explained(run: RunDirectory) -> None:
    replies = [
        Result(("squeue",), 0, f"12|12|PENDING|{int(BEGIN) + 3600}|N/A|1||Priority\n", ""),
        Result(("squeue",), 1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        Result(("squeue",), 0, "12|12|CONFIGURING|5|N/A|1|n[1-2]|None\n", ""),
    ]
    scene = Scene(run, io.StringIO())
    shell = Recorder({"squeue": lambda _argv: replies[0] if len(replies) == 1 else replies.pop(0)})
    scene.follower.poller = Poller(("12",), shell, clock=lambda: scene.now)
    with scene.follower:
        scene.wait(12)
    queued, silent, configuring = scene.lines()
    assert queued.startswith("queued (Priority), expected to start at ")
    assert silent.startswith("Slurm has not answered since ")
    assert configuring == "job 12 is configuring on n[1-2]"


def test_a_bar_on_a_terminal(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    scene = Scene(run, Terminal())
    with scene.follower:
        attempt = make_attempt(run)
        scene.wait(1)
        scene.add(attempt, iteration(1), iteration(12, tflops_per_gpu=412.0))
        scene.wait(1)
        scene.follower.say("a word [in between]")
    text = scene.stream.getvalue()
    for words in ("starting the program", "12/20", "loss -2", "412.0 TFLOP/s/GPU", "a word [in between]"):
        assert words in text
