"""The watchdog of a node, with ranks that need nothing but the standard library; about 20 s, mostly waiting."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launcher.contract.hangs import PHASES
from launcher.contract.paths import AttemptPaths
from launcher.contract.process import ProcessIdentity, start_ticks_of
from launcher.job.watch import heartbeat, watchdog
from tests.support.limits import SCALE, seconds

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 3.0 * SCALE
RANK = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from launcher.job.watch import heartbeat
beat = heartbeat.join()
def wait_here(name):
    while os.path.exists(name):
        time.sleep(0.02)
beat.enter("setting up")
for step in range(100000):
    beat.enter("training step" if step else "first step")
    wait_here(f"stuck-{{os.environ['RANK']}}")
    time.sleep(0.02)
    beat.step_done()
    if os.path.exists("over"):
        sys.exit(0)
"""
SHELL = 'echo "$$ $RANK" >"$LAUNCHER_HEARTBEATS/shell-$LOCAL_RANK"; "$@" & wait $!'


@dataclass
class Node:
    """A directory of a run with the processes of one node: for each rank a shell with a program, and the watchdog."""

    run: Path
    memory: Path
    environ: dict[str, str]
    ranks: int = 2
    shells: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    watchdog: "subprocess.Popen[bytes] | None" = None
    counts: heartbeat.Counts | None = None

    @property
    def attempt(self) -> AttemptPaths:
        return AttemptPaths(self.run / "attempts/000")

    @property
    def directory(self) -> Path:
        return self.memory / f"launcher-{os.geteuid()}-run"

    @property
    def said(self) -> Path:
        return self.run / "said"

    def start(self, program: str = RANK, *, only: tuple[int, ...] = (0, 1)) -> "Node":
        self.directory.mkdir(parents=True)
        self.counts = heartbeat.Counts(self.directory, self.ranks)
        (self.run / "rank.py").write_text(program)
        own = {"LAUNCHER_HEARTBEATS": str(self.directory), "NODE_RANK": "0", "LOCAL_WORLD_SIZE": str(self.ranks)}
        own |= {"LAUNCHER_RUN_DIR": str(self.run), "LAUNCHER_ATTEMPT": "000", "WORLD_SIZE": str(self.ranks)}
        for rank in only:
            environ = {**self.environ, **own, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = ["bash", "-c", SHELL, "bash", sys.executable, "-S", str(self.run / "rank.py")]
            self.shells.append(subprocess.Popen(command, cwd=self.run, env=environ, start_new_session=True))
        argv = [sys.executable, "-S", "-E", "-B", str(Path(watchdog.__file__))]
        environ = {**self.environ, **own, "RANK": "0", "LOCAL_RANK": "0"}
        with self.said.open("w") as said:
            self.watchdog = subprocess.Popen(argv, env=environ, stderr=said, start_new_session=True)
        return self

    def trains(self) -> list[heartbeat.Slot]:
        """Wait until each rank has counted a step; return what they have counted."""

        def slots() -> list[heartbeat.Slot]:
            # Mapped before the watchdog removes the directory.
            assert self.counts is not None
            return [self.counts.read(number) for number in range(self.ranks)]

        wait_until(lambda: all(slot.steps > 0 for slot in slots()))
        return slots()

    def stick(self, rank: int) -> None:
        (self.run / f"stuck-{rank}").touch()

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.attempt.hang_record(0).read_text())
        return found

    def end(self) -> str:
        """Wait for the end of the watchdog; return what it has said."""
        assert self.watchdog is not None
        assert self.watchdog.wait(seconds(30)) == 0
        return self.said.read_text()

    def close(self) -> None:
        for process in [*self.shells, *([self.watchdog] if self.watchdog else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(ready: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + seconds(timeout_s)
    while not ready():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "run/attempts/000/stacks").mkdir(parents=True)
    (tmp_path / "run/code").mkdir()
    (tmp_path / "run/code/entrypoint.py").write_text("# a program that does not count\n")
    limits = dict.fromkeys(("hang_limit_s", "evaluation_limit_s", "save_limit_s"), LIMIT_S)
    limits |= {"start_limit_s": 2 * LIMIT_S, "first_step_limit_s": 2 * LIMIT_S}
    (tmp_path / "run/argv.json").write_text(json.dumps({"options": {"hang_limits": limits}}))
    made = Node(tmp_path / "run", tmp_path / "memory", {"PATH": os.environ["PATH"]})
    yield made
    made.close()


def test_it_ends_with_its_ranks_and_leaves_nothing(node: Node) -> None:
    node.start().trains()
    wait_until(lambda: not node.directory.exists())
    (node.run / "over").touch()
    assert node.end() == ""
    assert list(node.attempt.stacks.iterdir()) == [], "nothing is written while all is well"


def test_it_survives_the_death_of_a_rank_and_sees_the_next_one_stop(node: Node) -> None:
    first, second = node.start().trains()
    os.kill(first.pid, signal.SIGKILL)
    assert node.shells[0].wait(seconds(10)) == 137
    os.kill(second.pid, signal.SIGSTOP)
    said = node.end()
    assert "launcher: hang: rank 1 is stopped by a signal" in said
    assert node.shells[1].wait(seconds(10)) == 137
    record = node.record()
    assert (record["stage"], [one["phase"] for one in record["ranks"]]) == ("ended", ["ended", "training step"])
    assert record["ranks"][1]["state"] == "T"
    assert any(frame.startswith("<module>") for frame in record["ranks"][1]["stack"]), "it was continued for its stack"


def test_progress_after_a_suspicion_removes_the_record_and_keeps_the_stacks(node: Node) -> None:
    node.start().trains()
    node.stick(1)
    wait_until(node.attempt.hang_record(0).exists)
    assert node.record()["stage"] == "suspected"
    (node.run / "stuck-1").unlink()
    wait_until(lambda: not node.attempt.hang_record(0).exists())
    assert "wait_here" in node.attempt.stacks_of_node(0).read_text()
    assert all(shell.poll() is None for shell in node.shells)


def test_a_job_that_is_suspended_as_a_whole_does_not_hang(node: Node) -> None:
    """Neither does its time count where the ranks are in the middle of a step."""
    slots = node.start().trains()
    assert node.watchdog is not None
    for rank in (0, 1):
        node.stick(rank)
    time.sleep(LIMIT_S / 4)
    everything = [*(slot.pid for slot in slots), node.watchdog.pid]
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(LIMIT_S * 1.5)
    for pid in reversed(everything):
        os.kill(pid, signal.SIGCONT)
    time.sleep(LIMIT_S / 6)
    (node.run / "over").touch()
    for rank in (0, 1):
        (node.run / f"stuck-{rank}").unlink()
    assert node.end() == ""


def slowest_after(steps: list[float], gap_s: float, at: int) -> float:
    """The slowest step after `steps`, of which a gap lay in the one at this index."""
    rank, ring = watchdog.WatchedRank(Path(), 0, 0), [0.0] * 100
    for number, duration in enumerate(steps):
        counted = slot_of(number, tuple(ring[:number]))
        rank.read(cast(heartbeat.Counts, SimpleNamespace(read=lambda _, slot=counted: slot)), 0.0)
        if number == at:
            rank.read(cast(heartbeat.Counts, SimpleNamespace(read=lambda _, slot=counted: slot)), 0.0, gap_s)
        ring[number % 100] = duration
    last = slot_of(len(steps), tuple(ring[: len(steps)]))
    rank.read(cast(heartbeat.Counts, SimpleNamespace(read=lambda _: last)), 0.0)
    assert len(rank.gaps) == (at + 1 > len(steps) - 100), "a gap is forgotten with its step"
    return rank.view(0.0).slowest_s


def slot_of(steps: int, recent_s: tuple[float, ...]) -> heartbeat.Slot:
    pid = os.getpid()
    return heartbeat.Slot(pid, 0, start_ticks_of(pid) or 0, "training step", steps, steps, recent_s)


@pytest.mark.parametrize(
    ("steps", "gap_s", "at", "slowest"),
    [
        ([12.0] * 20, 7.0, 3, 12.0),  # the watchdog alone stood still
        ([12.0] * 3 + [12.5] + [12.0] * 16, 7.0, 3, 12.0),
        ([2.0] * 5 + [602.0] + [2.0] * 5, 600.0, 5, 2.0),  # the whole node did
        ([2.0] * 5 + [602.0] + [2.0] * 150, 600.0, 5, 2.0),
        ([2.0] * 5 + [300.0] + [2.0] * 5, 7.0, 2, 300.0),  # another step is slow by itself
        ([2.0] * 105 + [9.0] + [2.0] * 5, 7.0, 3, 9.0),  # its place in the ring is that of the gap
    ],
)
def test_a_gap_takes_one_step_out_and_is_forgotten(steps: list[float], gap_s: float, at: int, slowest: float) -> None:
    assert slowest_after(steps, gap_s, at) == slowest


def test_a_full_disk_does_not_keep_a_hang_alive(node: Node) -> None:
    node.attempt.stacks.rmdir()
    node.attempt.stacks.write_text("not a directory")
    node.start().trains()
    node.stick(0)
    node.stick(1)
    said = node.end()
    assert "the record of a hang cannot be written" in said
    assert all(shell.wait(seconds(10)) > 128 for shell in node.shells)


@pytest.mark.parametrize(
    ("script", "note"),
    [("echo Thread 7: spied $*", None), ("echo Permission denied >&2; exit 1", "rank 0: py-spy: Permission denied")],
)
def test_py_spy_where_there_is_one(node: Node, tmp_path: Path, script: str, note: str | None) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    node.environ["PATH"] = f"{tmp_path / 'bin'}:{node.environ['PATH']}"
    slots = node.start().trains()
    node.stick(0)
    wait_until(node.attempt.hang_record(0).exists)
    assert (node.record()["notes"] or [None])[0] == note
    spied = f"Thread 7: spied dump --nonblocking --pid {slots[0].pid}"
    assert (spied in node.attempt.stacks_of_node(0).read_text()) == (note is None)


@pytest.mark.parametrize("known", [True, False], ids=["it is known to count", "it is not"])
def test_a_program_that_never_counts(node: Node, known: bool) -> None:
    """One that is not known to count is left alone: it may be another program of the contract."""
    if known:
        (node.run / "code/entrypoint.py").write_text("from launcher.job import rank\n")
    node.start("import time\ntime.sleep(3600)\n")
    if known:
        assert "ranks 0-1 never started the program" in node.end()
        assert [shell.wait(seconds(10)) for shell in node.shells] == [137, 137]
        return
    time.sleep(2.5 * LIMIT_S)
    assert all(shell.poll() is None for shell in node.shells)


def test_a_rank_that_cannot_count_says_so_and_its_node_is_not_watched(node: Node) -> None:
    (node.run / "code/entrypoint.py").write_text("from launcher.job import rank\n")
    wrong = "import os\nos.environ['LAUNCHER_HEARTBEATS'] = '/nowhere'\n"
    node.start(wrong + RANK)
    wait_until(node.attempt.unwatched(1).exists)
    assert "nowhere" in node.attempt.unwatched(1).read_text()
    time.sleep(2.5 * LIMIT_S)
    assert all(shell.poll() is None for shell in node.shells)


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("", []),
        ('Stack (most recent call first):\n  File "/a/b.py", line 7 in f\n  File "c.py", line 1 in <module>\n', 2),
        ('Stack (most recent call first):\n  File "/old.py", line 7 in f\nStack (most recent call first):\n', 1),
        ("Stack (most recent call first):\n  <no Python frame>\n", []),
        ('==== rank 0\n---- py-spy\n  File "x.py", line 3 in g\n', []),
    ],
)
def test_the_stack_of_the_main_thread(text: str, frames: Any) -> None:
    found = watchdog.main_thread(text)
    assert found == frames if isinstance(frames, list) else len(found) == frames
    assert not found or found[0] in ("f /a/b.py:7", "f /old.py:7")


def test_the_signal_goes_only_to_a_process_that_handles_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as plain:
        assert not watchdog.catches(plain.pid, heartbeat.STACK_SIGNAL)
        plain.kill()
    assert not watchdog.catches(2**22 + 1, heartbeat.STACK_SIGNAL)


def test_directories_of_killed_watchdogs_are_removed_and_no_others(tmp_path: Path) -> None:
    me = ProcessIdentity.of_this_process().to_dict()
    owners: Mapping[str, Any] = {
        "dead": {**me, "start_ticks": 1},
        "alive": me,
        "elsewhere": {**me, "host": "other", "start_ticks": 1},
        "namespace": {**me, "pid_namespace": "pid:[1]", "start_ticks": 1},
        "unknown": None,
    }
    for name, owner in owners.items():
        directory = tmp_path / f"launcher-{os.geteuid()}-{name}"
        directory.mkdir()
        if owner is not None:
            (directory / "watchdog.json").write_text(json.dumps(owner))
    (tmp_path / "launcher-99999-dead").mkdir()
    old = tmp_path / f"launcher-{os.geteuid()}-old"
    old.mkdir()
    os.utime(old, (time.time() - 90000,) * 2)
    watchdog.sweep(tmp_path / f"launcher-{os.geteuid()}-mine")
    assert sorted(path.name.rpartition("-")[2] for path in tmp_path.glob(f"launcher-{os.geteuid()}-*")) == [
        "alive",
        "elsewhere",
        "namespace",
        "unknown",
    ]
    assert (tmp_path / "launcher-99999-dead").exists()


# ---- the count


def beat_of(directory: Path, **more: str) -> heartbeat.Heartbeat:
    rank = {"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    counts = heartbeat.Counts(directory, 2)
    beat = heartbeat.Heartbeat(counts, int({**rank, **more}["LOCAL_RANK"]))
    beat.begin(5)
    return beat


def test_a_count_is_read_as_it_was_written(tmp_path: Path) -> None:
    beat, counts = beat_of(tmp_path), heartbeat.Counts(tmp_path, 2)
    assert counts.read(0).rank is None
    assert counts.read(1)[:5] == (os.getpid(), 5, counts.read(1).start_ticks, "starting", 0)
    for phase in PHASES[1:]:
        before = counts.read(1).changes
        beat.enter(phase)
        assert counts.read(1).phase == phase
        assert counts.read(1).changes == before + (phase != "starting")


def test_the_last_hundred_durations_are_kept_and_the_first_step_does_not_count(tmp_path: Path) -> None:
    beat, counts = beat_of(tmp_path), heartbeat.Counts(tmp_path, 2)
    beat.enter("first step")
    time.sleep(0.05)
    beat.step_done()
    assert counts.read(1).recent_s == (0.0,)
    for _ in range(150):
        beat.enter("training step")
        beat.step_done()
    slot = counts.read(1)
    assert (slot.steps, len(slot.recent_s), slot.phase) == (151, 100, "between steps")
    assert 0 < min(slot.recent_s) <= max(slot.recent_s) < 0.05


def test_a_new_start_of_the_program_begins_again(tmp_path: Path) -> None:
    beat, counts = beat_of(tmp_path), heartbeat.Counts(tmp_path, 2)
    beat.enter("first step")
    beat.step_done()
    before = counts.read(1).changes
    beat_of(tmp_path)
    slot = counts.read(1)
    assert (slot.steps, slot.phase) == (0, "starting")
    assert slot.changes > before, "the watchdog sees that it is alive"


def test_without_a_directory_nothing_is_counted() -> None:
    beat = heartbeat.join({})
    beat.enter("training step")
    beat.step_done()


@pytest.mark.parametrize(("release", "old"), [((2, 13), False), ((2, 6), True), (None, True)])
def test_variables_of_the_flight_recorder(release: tuple[int, int] | None, old: bool) -> None:
    found = heartbeat.flight_recorder_variables(Path("/run/stacks"), release)
    assert found["TORCH_FR_DUMP_TEMP_FILE"] == "/run/stacks/flight-recorder-rank-"
    assert ("TORCH_NCCL_TRACE_BUFFER_SIZE" in found) == old
