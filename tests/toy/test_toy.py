"""The stand-in program keeps the contract of entrypoint.py, on the oldest Python too."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.files import read_lines
from launcher.contract.overrides import to_record
from launcher.contract.values import parse
from tests.support.limits import seconds
from tests.support.rank_ends import has_record, record_of

TOY = Path(__file__).with_name("entrypoint.py")
OLDEST = Path.home() / ".pyenv/versions/3.10.13/bin/python"
PYTHON = str(OLDEST) if OLDEST.exists() else sys.executable


class Toy:
    """A run directory in which toys run as ranks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, *overrides: str, world: int = 2, attempt: str = "000") -> list["subprocess.Popen[bytes]"]:
        (self.path / "attempts" / attempt / "ranks").mkdir(parents=True)
        (self.path / "argv.json").write_text(
            json.dumps({"version": 1, "overrides": [to_record(parse(text)) for text in overrides]})
        )
        given = {"WORLD_SIZE": str(world), "LAUNCHER_RUN_DIR": str(self.path), "LAUNCHER_ATTEMPT": attempt}
        argv = [PYTHON, "-I", "-S", str(TOY)]
        environments = [{"PATH": os.defpath, **given, "RANK": str(rank), "NODE_RANK": "0"} for rank in range(world)]
        return [
            subprocess.Popen(argv, env=each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for each in environments
        ]

    def run(self, *overrides: str, world: int = 2, attempt: str = "000") -> list[int]:
        return [process.wait(seconds(20)) for process in self.start(*overrides, world=world, attempt=attempt)]

    def lines(self, name: str, attempt: str = "000") -> list[dict[str, Any]]:
        path = self.path / "attempts" / attempt / name
        return read_lines(path)

    def listening(self, world: int) -> bool:
        """Whether every rank minds signals."""
        return len(list(self.path.glob("attempts/000/ranks/*.seen.json"))) == world

    def rank(self, rank: int, attempt: str = "000") -> dict[str, Any]:
        return record_of(self.path / "attempts" / attempt, rank)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_it_finishes(toy: Toy) -> None:
    assert toy.run("toy.iters=4", "toy.seconds=0", "+toy.save_every=2") == [0, 0]
    assert [toy.rank(rank)["outcome"] for rank in (0, 1)] == ["finished"] * 2
    assert [line["iteration"] for line in toy.lines("metrics.jsonl")] == [1, 2, 3, 4]
    losses = [line["loss"] for line in toy.lines("metrics.jsonl")]
    assert losses == sorted(losses, reverse=True)
    assert [line["event"] for line in toy.lines("timeline.jsonl")][:3] == ["imports", "model", "train_start"]
    assert (toy.path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "4\n"
    assert not list(toy.path.rglob("*.tmp"))
    seen = json.loads((toy.path / "attempts" / "000" / "ranks" / "0001.seen.json").read_text())
    assert (seen["environment"]["RANK"], json.loads(seen["argv_json"])["overrides"][0]["text"]) == ("1", "toy.iters=4")


def test_it_resumes_with_the_very_same_losses(toy: Toy, tmp_path: Path) -> None:
    whole = Toy(tmp_path / "whole")
    whole.run("toy.iters=8", "toy.seconds=0")
    toy.run("toy.iters=4", "toy.seconds=0")
    toy.run("toy.iters=8", "toy.seconds=0", attempt="001")
    both = toy.lines("metrics.jsonl") + toy.lines("metrics.jsonl", "001")
    assert [(line["iteration"], line["loss"]) for line in both] == [
        (line["iteration"], line["loss"]) for line in whole.lines("metrics.jsonl")
    ]
    assert toy.lines("timeline.jsonl", "001")[2]["event"] == "checkpoint_loaded"


def test_a_resume_from_a_wrong_state_is_seen_in_the_losses(toy: Toy) -> None:
    """The state of another iteration, and one that is not finite: neither comes right again."""
    toy.run("toy.iters=8", "toy.seconds=0", "+toy.save_every=2", "+toy.nan_from=7")
    losses = {line["iteration"]: line["loss"] for line in toy.lines("metrics.jsonl")}
    assert [step for step, loss in losses.items() if loss != loss] == [7, 8]
    saved = toy.path / "checkpoints"
    for attempt, newest, content in (("001", 8, 8), ("002", 4, 2)):
        (saved / f"iter_{newest:07d}/state.json").write_bytes((saved / f"iter_{content:07d}/state.json").read_bytes())
        (saved / "latest_checkpointed_iteration.txt").write_text(f"{newest}\n")
        toy.run("toy.iters=10", "toy.seconds=0", "toy.save_every=100", attempt=attempt)
    nan, wrong = ([line["loss"] for line in toy.lines("metrics.jsonl", attempt)] for attempt in ("001", "002"))
    assert (len(nan), all(loss != loss for loss in nan)) == (2, True)
    assert (len(wrong), wrong[0] == losses[5], wrong[1] == losses[6]) == (6, False, False)


@pytest.mark.parametrize("how", ["file", "signal"])
def test_it_saves_and_stops(toy: Toy, how: str) -> None:
    processes = toy.start("toy.iters=10000", "toy.seconds=0.01", "toy.save_every=100000", "+toy.term=save")
    deadline = time.monotonic() + seconds(20)
    while not (toy.lines("metrics.jsonl") and toy.listening(2)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if how == "file":
        (toy.path / "attempts" / "000" / "stop").touch()
    else:
        for process in processes:
            process.send_signal(signal.SIGTERM)
    assert [process.wait(seconds(20)) for process in processes] == [0, 0]
    last = toy.rank(0)
    assert (last["outcome"], last["reason"]) == ("stopped", "requested" if how == "file" else "signal SIGTERM")
    assert (toy.path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == f"{last['iteration']}\n"


@pytest.mark.parametrize(
    ("how", "status", "what"),
    [("raise", 1, "ValueError"), ("user", 2, "ValueError"), ("exit", 7, ""), ("kill", -9, "")],
)
def test_it_fails_as_requested(toy: Toy, how: str, status: int, what: str) -> None:
    assert toy.run("toy.fail_rank=1", f"toy.fail_how={how}", "toy.seconds=0") == [0, status]
    assert has_record(toy.path / "attempts/000", 1) == bool(what)
    if what:
        assert (toy.rank(1)["exception"]["type"], toy.rank(1)["iteration"]) == (what, 2)
        assert toy.rank(1)["cause"] == ("user" if how == "user" else "program")
