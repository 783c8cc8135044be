"""Printing and following the logs of ranks."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import Result
from launcher.rundir import RunDirectory
from launcher.watch.logs import follow_logs, print_logs
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, make_attempt, make_run, submitted

FAILED: dict[str, object] = {"outcome": "failed", "first_failing_rank": {"rank": 1, "host": "n2", "what": "x"}}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small" / "1", *submitted())


def with_logs(run: RunDirectory, number: int = 0, result: dict[str, object] | None = None) -> None:
    attempt = make_attempt(run, number, result=result)
    for rank in range(2):
        attempt.log(rank).write_text(f"attempt {number} rank {rank}\n\u00fc without an end")


def printed(run: RunDirectory, **options: Any) -> list[str]:
    stream = io.StringIO()
    assert print_logs(run, stream, **options) == stream.getvalue().count("\n")
    return stream.getvalue().splitlines()


def test_rank_0_or_the_one_that_failed_first(run: RunDirectory) -> None:
    with_logs(run, 0, FAILED)
    assert printed(run) == ["attempt 0 rank 1", "\u00fc without an end"]
    with_logs(run, 1)
    assert printed(run)[0] == "attempt 1 rank 0"
    assert printed(run, attempt="0")[0] == "attempt 0 rank 1"
    assert printed(run, attempt="000", rank="0")[0] == "attempt 0 rank 0"
    assert printed(run, rank="all") == [
        "[0] attempt 1 rank 0",
        "[0] \u00fc without an end",
        "[1] attempt 1 rank 1",
        "[1] \u00fc without an end",
    ]


def test_where_no_rank_began_srun_says_why(run: RunDirectory) -> None:
    attempt = make_attempt(run, result=FAILED)
    (attempt.logs / "srun.log").write_text("srun: error: pyxis: image not found\n")
    assert printed(run) == ["srun: error: pyxis: image not found"]
    (attempt.logs / "srun.log").write_text("")
    (run.path / "sbatch.log").write_text("launcher: scontrol cannot list the nodes\n")
    assert printed(run) == ["launcher: scontrol cannot list the nodes"]


def with_long_log(run: RunDirectory, mib: int) -> Path:
    """A log of so many MiB whose last line is the traceback's."""
    attempt = make_attempt(run, result=FAILED)
    with attempt.log(1).open("wb") as log:
        for number in range(mib):
            log.write(b"%07d " % number + b"x" * 1015 + b"\n" + (b"y" * 1023 + b"\n") * 1023)
        log.write("ValueError: b\u00e4d".encode())
    return attempt.log(1)


class Counted(io.StringIO):
    """Counts what is written, and the longest piece."""

    size = longest = 0

    def write(self, text: str) -> int:
        self.size, self.longest, self.end = self.size + len(text), max(self.longest, len(text)), text[-20:]
        return len(text)


def test_a_long_log_is_printed_whole_in_constant_memory(run: RunDirectory) -> None:
    path, stream = with_long_log(run, 20), Counted()
    tracemalloc.start()
    try:
        assert print_logs(run, stream) == 20 * 1024 + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.size == path.stat().st_size  # one less for the character of two bytes, one more for the line's end
    assert stream.end == "\n"
    assert stream.longest <= 1 << 20
    assert peak < 6 << 20


def test_a_line_longer_than_a_piece_is_whole(run: RunDirectory) -> None:
    """Progress bars end their lines with carriage returns."""
    attempt = make_attempt(run)
    bar = "".join(f"\r{number:9}" for number in range(300_000))
    attempt.log(0).write_text(f"one\n{bar}\nlast")
    assert printed(run) == [*f"one\n{bar}".splitlines(), "last"]
    stream = io.StringIO()
    print_logs(run, stream, rank="all")
    assert stream.getvalue().replace("[0] ", "").replace("\n", "") == f"one{bar}last"


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_lines_are_found_from_the_end(run: RunDirectory, end: str) -> None:
    attempt = make_attempt(run)
    lines = [f"{number} {'z' * (number % 97)}" for number in range(5000)]
    for rank in range(2):
        attempt.log(rank).write_text("\n".join([*lines, f"rank {rank}"]) + end)
    assert printed(run, last=1) == ["rank 0"]
    for last in (2, 1000, 4999, 5000):
        assert printed(run, last=last) == [*lines[5001 - last :], "rank 0"]
    for last in (5001, 9999):
        assert printed(run, last=last) == [*lines, "rank 0"]
    assert printed(run, last=2, rank="all") == [
        *(f"[0] {line}" for line in (lines[-1], "rank 0")),
        *(f"[1] {line}" for line in (lines[-1], "rank 1")),
    ]


def test_the_end_of_a_long_log_is_read_alone(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = with_long_log(run, 20), list[int]()

    class Reader(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size) or b""
            read.append(len(data))
            return data

    monkeypatch.setattr("launcher.watch.logs.open_regular", Reader)
    monkeypatch.setattr("launcher.watch.tail.open_regular", Reader)
    assert [line[:7] for line in printed(run, last=1025)] == ["0000019", *["yyyyyyy"] * 1023, "ValueEr"]
    assert 1 << 20 < sum(read) < 3 << 20 < path.stat().st_size


def test_a_log_that_cannot_be_read_is_an_error(run: RunDirectory) -> None:
    make_attempt(run).log(0).mkdir()
    with pytest.raises(DiskError, match="cannot read the log: is a directory"):
        printed(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rank": "2"}, "no rank '2'"), ({"rank": "first"}, "no rank 'first'"), ({"attempt": "3"}, "no attempt '3'")],
)
def test_what_is_not_there(run: RunDirectory, options: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match="not started"):
        printed(run)
    with_logs(run)
    with pytest.raises(RequestError, match=words) as caught:
        printed(run, **options)
    assert caught.value.hint


def squeue(state: str) -> Recorder:
    line = f"12|12|{state}|{int(BEGIN)}|N/A|1|n1|Priority|/x/sbatch.sh|/x|token-1\n"
    return Recorder({"squeue": Result(("squeue",), 0, line, "")})


def test_following_ends_with_the_attempt_and_misses_nothing(run: RunDirectory) -> None:
    stream, said, steps = io.StringIO(), list[str](), iter(range(100))

    def sleep(_seconds: float) -> None:
        step = next(steps)
        if step == 2:
            with_logs(run)
        log = run.attempt(0).log(0)
        if step in (4, 5):
            with log.open("a") as file:
                file.write(f" now\nline {step}")
        if step == 6:
            with log.open("a") as file:
                file.write("\nthe very last")
            (run.attempt(0).path / "result.json").write_text(json.dumps({"outcome": "finished"}))

    follow_logs(run, stream, squeue("PENDING"), say=said.append, sleep=sleep)
    assert said == ["queued Priority", "queued again, Priority"]
    assert stream.getvalue().splitlines() == [
        "attempt 0 rank 0",
        "\u00fc without an end now",
        "line 4 now",
        "line 5",
        "the very last",
    ]


def test_following_ends_with_the_job_where_there_is_no_verdict(run: RunDirectory) -> None:
    with_logs(run)
    stream = io.StringIO()
    clock = iter(range(1000))
    follow_logs(run, stream, squeue("CANCELLED"), clock=lambda: next(clock), sleep=lambda _seconds: None)
    assert stream.getvalue().splitlines()[0] == "attempt 0 rank 0"


def test_following_a_run_that_never_begins(run: RunDirectory) -> None:
    said: list[str] = []
    follow_logs(run, io.StringIO(), squeue("CANCELLED"), say=said.append, sleep=lambda _seconds: None)
    assert said == ["cancelled the job was cancelled"]


def test_following_goes_on_while_slurm_is_silent(run: RunDirectory) -> None:
    with_logs(run)
    looks = 0

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 30:
            (run.attempt(0).path / "result.json").write_text(json.dumps({"outcome": "finished"}))

    silent = Recorder({"squeue": Result(("squeue",), 1, "", "Unable to contact slurm controller (connect failure)")})
    clock = iter(range(0, 10_000, 10))
    follow_logs(run, io.StringIO(), silent, clock=lambda: next(clock), sleep=sleep)
    assert looks == 30


LOSS = " [2026-01-01 00:00:00] iteration        {}/      20 | consumed samples:  8 | lm loss: 9.1E+00 |"


def test_beside_rank_0_stand_the_losses_of_the_last_rank(run: RunDirectory) -> None:
    attempt = make_attempt(run)
    attempt.log(0).write_text("rank 0\n")
    attempt.log(1).write_text(f"rank 1\n{LOSS.format(1)}\nmore\n{LOSS.format(2)}")
    assert printed(run) == ["rank 0", f"[1] {LOSS.format(1)}", f"[1] {LOSS.format(2)}"]
    assert printed(run, rank="0") == ["rank 0"]
    assert printed(run, rank="last")[0] == "rank 1"


def test_following_goes_on_over_attempts_and_ends_with_the_verdict(run: RunDirectory) -> None:
    """A batch job that is requeued; the losses of both attempts come as they are written."""
    stream, said, steps, shown = io.StringIO(), list[str](), iter(range(1000)), list[int]()
    shell = squeue("PENDING")
    seconds = iter(range(100_000))

    def sleep(_seconds: float) -> None:
        step = next(steps)
        shown.append(stream.getvalue().count("lm loss"))
        if step == 1:
            with_logs(run, 0)
        if step == 2:
            with run.attempt(0).log(1).open("a") as log:
                log.write(f"\n{LOSS.format(1)}\n")
        if step == 3:
            assert shown[-1] == 1, "within one look"
            (run.attempt(0).path / "result.json").write_text(json.dumps(FAILED))
            shell.answers = squeue("REQUEUED").answers
        if step == 30:
            with_logs(run, 1)
            run.attempt(1).log(1).write_text(f"{LOSS.format(2)}\n")
            shell.answers = squeue("RUNNING").answers
        if step == 40:
            (run.attempt(1).path / "result.json").write_text(json.dumps({"outcome": "finished", "iteration": 20}))
            shell.answers = squeue("COMPLETING").answers

    follow_logs(run, stream, shell, say=said.append, clock=lambda: next(seconds), sleep=sleep)
    assert [line for line in stream.getvalue().splitlines() if "lm loss" in line or "attempt" in line] == [
        "attempt 0 rank 0",
        f"[1] {LOSS.format(1)}",
        "attempt 1 rank 0",
        f"[1] {LOSS.format(2)}",
    ]
    assert said == [
        "queued Priority",
        "attempt 000 has ended; queued again, Priority",
        "attempt 001 starts",
        "finished iteration 20",
    ]


@pytest.mark.parametrize(("keeps_going", "shown"), [(True, 2), (False, 1)])
def test_a_run_that_keeps_going_may_decide_that_after_its_verdict(
    run: RunDirectory, keeps_going: bool, shown: int
) -> None:
    """The verdict is there, the job still runs, and what comes next is not decided yet."""
    run.argv_file.write_text(json.dumps({"options": {"keep_going": {"tries": 3} if keeps_going else None}}))
    with_logs(run, 0, {"outcome": "failed", "reason": "x"})
    stream, said, steps, seconds = io.StringIO(), list[str](), iter(range(1000)), iter(range(100_000))

    def sleep(_seconds: float) -> None:
        if next(steps) == 8:
            with_logs(run, 1, {"outcome": "finished", "iteration": 20})

    follow_logs(run, stream, squeue("RUNNING"), say=said.append, clock=lambda: next(seconds), sleep=sleep)
    assert len([line for line in stream.getvalue().splitlines() if line.startswith("attempt")]) == shown


def test_one_attempt_is_followed_alone(run: RunDirectory) -> None:
    with_logs(run, 0, FAILED)
    with_logs(run, 1)
    stream = io.StringIO()
    follow_logs(run, stream, squeue("RUNNING"), attempt="0", sleep=lambda _seconds: None)
    assert stream.getvalue().splitlines()[0] == "attempt 0 rank 1"


def test_following_begins_with_the_last_lines(run: RunDirectory) -> None:
    with_logs(run)
    log, stream = run.attempt(0).log(0), io.StringIO()

    def sleep(_seconds: float) -> None:
        with log.open("a") as file:
            file.write(" now\nmore\n")
        (run.attempt(0).path / "result.json").write_text(json.dumps({"outcome": "finished"}))

    follow_logs(run, stream, squeue("RUNNING"), last=1, sleep=sleep)
    assert stream.getvalue().splitlines() == ["\u00fc without an end now", "more"]
