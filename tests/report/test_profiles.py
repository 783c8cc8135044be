"""`launcher profiles`: the list, whether captures are sound, and what result.json and the logs report as missing."""

import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher._util.shell import Result
from launcher.cli.commands.profiles import main
from launcher.cli.main import command_parser
from launcher.contract import verdict
from launcher.contract.paths import AttemptPaths
from launcher.report.profiles.listing import list_profiles, missing_lines
from launcher.report.profiles.tables import summarise, write_list, write_summary
from launcher.rundir import RunDirectory
from tests.support.rank_ends import leave as leave_end
from tests.support.recorder import Recorder

STEPS = [event for step in (2, 3) for event in [{"ph": "X", "name": f"step {step}", "cat": "user_annotation"}]]


def run_of(
    directory: Path, profiler: str = "torch", ranks: tuple[int, ...] = (0, 1), world_size: int = 2
) -> RunDirectory:
    """A run of that many ranks, of which these were to be captured, and none has left anything yet."""
    (directory / "attempts/000/ranks").mkdir(parents=True)
    (directory / "attempts/000/profiles").mkdir()
    asked = {"name": profiler, "start": 2, "stop": 4, "ranks": list(ranks)}
    (directory / "argv.json").write_text(json.dumps({"options": {"profiler": asked}}))
    (directory / "plan.json").write_text(json.dumps({"world_size": world_size}))
    return RunDirectory(directory)


def leave(run: RunDirectory, rank: int, content: bytes | None, name: str = "torch", **more: Any) -> Path:
    """What a rank leaves of a capture; returns its report."""
    extension = {"torch": "pt.trace.json.gz", "memory": "pickle", "nsys": "nsys-rep", "viztracer": "json.gz"}[name]
    stem = f"{name}_job9_attempt000_node0_rank{rank}"
    path = run.path / f"attempts/000/profiles/{stem}.{extension}"
    if content is not None:
        path.write_bytes(content)
    record = {
        "state": "saved",
        "window": [2, 4],
        "began_at": 0,
        "steps": [2, 3],
        "file": path.name,
        "job": "9",
        "node": 0,
    }
    record |= {"bytes": None if content is None else len(content), **more}
    (path.parent / f"{stem}.record.json").write_text(json.dumps(record))
    return path


def trace(events: list[dict[str, Any]] = STEPS) -> bytes:
    timed = [{"ts": index * 10, "dur": 10, "tid": 1, **event} for index, event in enumerate(events)]
    return gzip.compress(json.dumps({"traceEvents": timed}).encode())


def judge(run: RunDirectory, ends: dict[int, str]) -> dict[str, Any]:
    """result.json of ranks with these outcomes; a rank that is not named left nothing."""
    for rank, outcome in ends.items():
        end = {"outcome": outcome, "iteration": 1, "time": 1.0, "host": "n1", "cause": "program"}
        end |= {"exception": {"type": "ValueError", "message": "bad", "where": None}} if outcome == "failed" else {}
        leave_end(run.path / "attempts/000", rank, end)
    attempt = run.path / "attempts/000"
    result = verdict.compose(AttemptPaths(attempt), 2, 0, now=1.0)
    (attempt / "result.json").write_text(json.dumps(result))
    profiles: dict[str, Any] = json.loads(json.dumps(result["profiles"]))
    return profiles


def test_what_was_captured_is_listed_with_size_steps_and_rank(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    content = trace()
    for rank in (0, 1):
        leave(run, rank, content)
    assert judge(run, {0: "finished", 1: "finished"}) == {
        "profiler": "torch",
        "steps": [2, 4],
        "expected": 2,
        "found": 2,
        "missing": [],
        "passed": None,
    }
    listed = list_profiles(run, Recorder())
    assert [(one.rank, one.node, one.job, one.steps, one.bytes, one.sound) for one in listed] == [
        (rank, 0, "9", (2, 3), len(content), True) for rank in (0, 1)
    ]
    text = io.StringIO()
    write_list(listed, text)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["ATTEMPT", "PROFILER", "RANK", "NODE", "STEPS", "SIZE", "SOUND", "FILE"]
    assert lines[1].split()[:5] == ["000", "torch", "0", "0", "2:4"]


def test_no_ranks_means_all(tmp_path: Path) -> None:
    run = run_of(tmp_path, ranks=())
    leave(run, 1, trace())
    assert [(one.rank, one.sound) for one in list_profiles(run, Recorder())] == [(0, False), (1, True)]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (trace()[:-30], "it cannot be decompressed"),
        (gzip.compress(b'{"traceEvents": [{"name": "step 2"}, {"name": "step 3"'), "it is truncated"),
        (trace(STEPS[:1]), "step 3 is not in it"),
        (b"", "the file is empty"),
        (None, "the file is gone"),
    ],
    ids=["cut", "unfinished", "a step short", "empty", "gone"],
)
def test_a_trace_that_is_not_sound_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    run = run_of(tmp_path, ranks=(0,))
    leave(run, 0, content)
    (found,) = list_profiles(run, Recorder())
    assert found.sound is False
    assert why in str(found.why)


@pytest.mark.parametrize(("content", "sound"), [(pickle.dumps([1]), True), (pickle.dumps([1])[:-1], False)])
def test_a_snapshot_is_whole_if_it_ends(tmp_path: Path, content: bytes, sound: bool) -> None:
    run = run_of(tmp_path, "memory", (0,))
    leave(run, 0, content, "memory")
    assert list_profiles(run, Recorder())[0].sound is sound


def exporting(argv: Any) -> Result:
    output = next(word.partition("=")[2] for word in argv if word.startswith("--output="))
    Path(output).write_text("exported")
    assert Path(argv[-1]).read_text() == "report", "a copy is exported"
    return Result(tuple(argv), 0, "", "")


@pytest.mark.parametrize(
    ("around", "shell", "sound", "why"),
    [
        ({"opens": True, "kernels": 9}, Recorder(), True, None),
        ({"opens": None, "why": "this Python has no sqlite3"}, Recorder({"nsys": exporting}), True, None),
        (
            {"opens": None, "why": "no sqlite3"},
            Recorder(),
            None,
            "not checked: no sqlite3, and this machine has no nsys",
        ),
        (
            {"opens": None},
            Recorder({"nsys": Result(("nsys",), 1, "", "The file is damaged")}),
            False,
            "nsys cannot read it",
        ),
        ({"opens": False, "why": "damaged"}, Recorder(), False, "nsys cannot read its own report: damaged"),
        ({"opens": True, "kernels": 0}, Recorder(), False, "holds not one kernel"),
        (None, Recorder(), False, "was killed while the report was being written"),
    ],
    ids=["opened in the job", "opened here", "nowhere to open it", "damaged", "damaged in the job", "empty", "killed"],
)
def test_a_report_of_nsys(
    tmp_path: Path, around: dict[str, Any] | None, shell: Recorder, sound: bool | None, why: str | None
) -> None:
    run = run_of(tmp_path, "nsys", (0,))
    path = leave(run, 0, b"report", "nsys", state="captured")
    if around is not None:
        around |= {"file": path.name, "bytes": 6}
        (path.parent / f"{path.stem}.nsys.json").write_text(json.dumps(around))
    (found,) = list_profiles(run, shell)
    assert found.sound is sound
    assert (found.why is None) if why is None else (why in str(found.why))


def test_what_is_missing_is_said_with_the_reason(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    leave(run, 0, None, state="waiting", steps=[])
    said = judge(run, {0: "failed"})
    assert (said["expected"], said["found"]) == (2, 0)
    assert [(one["rank"], one["why"]) for one in said["missing"]] == [
        (0, "the rank ended before step 2: ValueError: bad at iteration 1"),
        (1, "the rank left no record of its capture: left no record"),
    ]
    result = run.attempts()[0].result
    assert missing_lines(result) == [
        f"no sound torch report of rank {one['rank']}: {one['why']}" for one in said["missing"]
    ]


def test_a_window_that_had_passed_is_not_missing(tmp_path: Path) -> None:
    run = run_of(tmp_path, ranks=(0,))
    leave(run, 0, None, state="passed", began_at=9, steps=[])
    said = judge(run, {0: "finished", 1: "finished"})
    assert (said["expected"], said["missing"], said["passed"]) == (
        0,
        [],
        "the attempt began at step 9, after the window 2:4",
    )
    assert list_profiles(run, Recorder())[0].sound is None
    assert missing_lines(run.attempts()[0].result) == [f"nothing was profiled: {said['passed']}"]


def test_a_run_without_a_profiler_has_none(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (tmp_path / "argv.json").write_text(json.dumps({"options": {"profiler": None}}))
    assert judge(run, {0: "finished"}) is None
    assert missing_lines(run.attempts()[0].result) == []
    with pytest.raises(RequestError, match="was not profiled"):
        list_profiles(run, Recorder())


def test_an_earlier_attempt_is_judged_by_its_own_request(tmp_path: Path) -> None:
    run = run_of(tmp_path, ranks=(0,))
    leave(run, 0, trace())
    for name in ("001", "002"):
        (run.path / "attempts" / name / "ranks").mkdir(parents=True)
    # --resume after attempt 001 kept what had counted until then, and asked for no profiler.
    (tmp_path / "attempts/001/argv.json").write_text((tmp_path / "argv.json").read_text())
    (tmp_path / "argv.json").write_text(json.dumps({"options": {"profiler": None}}))
    assert [(one.attempt, one.sound) for one in list_profiles(run, Recorder())] == [("000", True), ("001", False)]


def test_an_attempt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no attempt '7'"):
        list_profiles(run_of(tmp_path), Recorder(), attempt="7")


def test_the_summary_has_a_line_per_rank_and_says_what_could_not_be_read(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    leave(run, 0, trace([*STEPS, {"ph": "X", "name": "a[kernel]", "cat": "kernel", "ts": 5, "dur": 5}]))
    summaries = summarise(list_profiles(run, Recorder()), Recorder())
    text = io.StringIO()
    write_summary(summaries, text)
    lines = text.getvalue().splitlines()
    assert lines[1].split() == ["000", "0", "2", "0.01", "25.0%", "0.0%", "0.0%", "75.0%"]
    assert lines[4].split() == ["0", "0.005", "100.0%", "1", "a[kernel]"]
    assert lines[5] == "attempt 000, rank 1: the rank left no record of its capture: the attempt is still running"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path)
    for rank in (0, 1):
        leave(run, rank, trace())
    parser = command_parser("profiles")
    assert main(parser.parse_args([str(run.path)])) == 0
    assert "torch_job9_attempt000_node0_rank1.pt.trace.json.gz" in capsys.readouterr().out
    leave(run, 1, trace()[:-30])
    assert main(parser.parse_args([str(run.path), "--json"])) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [(one["rank"], one["sound"], one["steps"]) for one in answer["profiles"]] == [
        (0, True, [2, 3]),
        (1, False, [2, 3]),
    ]
    assert main(parser.parse_args([str(run.path), "--summary", "--json"])) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["profiles"][0]["shares"]["steps"] == 2
    assert "cannot be decompressed" in str(answer["profiles"][1]["why"])
