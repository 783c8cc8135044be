"""The plots of a page: lines over iterations, phases, and time shares of a rank's steps."""

import json
import sys
from pathlib import Path

import pytest

from launcher.report.page import metrics, training
from launcher.report.page.captures import captures
from launcher.report.page.content import Plot, Table, Text
from launcher.report.page.metrics import Points, Series, downsample
from launcher.report.page.phases import phases
from launcher.rundir import Attempt, RunDirectory
from tests.report.blocks import LAUNCHED, of_kind, subject
from tests.report.test_activities import GEMM, REDUCE, export_of
from tests.report.test_profiles import STEPS, leave, run_of, trace
from tests.watch.run_dirs import iteration, make_attempt, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")


def test_every_attempt_has_its_line(run: RunDirectory) -> None:
    make_attempt(run, metrics=(iteration(1, grad_norm=2.0), iteration(2, grad_norm=float("nan"))))
    make_attempt(run, 1, metrics=(iteration(2, tflops_per_gpu=0.01), iteration(3, loss=None)))
    plots = {plot.title: plot for plot in of_kind(Plot, training.training(subject(run)))}
    assert list(plots) == ["Loss", "Time of an iteration", "Gradient norm"], "no TFLOP/s: a CPU's mean nothing"
    loss = [(line["name"], line["x"], line["y"]) for line in plots["Loss"].data]
    assert loss == [("000", [1, 2], [9.0, 8.0]), ("001", [2], [8.0])]
    assert plots["Loss"].description == "Lowest 8 (iteration 2), highest 9 (iteration 1), last 8 (iteration 2)."
    assert plots["Gradient norm"].description.endswith("It was not finite once, first in iteration 2.")
    assert plots["Loss"].layout["showlegend"]
    assert not plots["Gradient norm"].layout["showlegend"]


def test_more_attempts_than_colours_have_no_legend() -> None:
    plot = training.plot_of(training.METRICS[0], [Series(f"{number:03d}", ((number, 1.0),)) for number in range(9)])
    assert plot is not None
    assert not plot.layout["showlegend"]
    assert plot.description.endswith("9 attempts, which share 8 colours; point at a line to see its attempt.")


def test_lines_that_are_not_metrics_are_left_out(run: RunDirectory) -> None:
    attempt = make_attempt(run)
    long = "9" * 400
    lines = ("[1]", '{"iteration": 1, "loss": 2}', '{"loss": 3}', '{"iteration": 2, "loss": true}')
    attempt.metrics.write_text("\n".join([*lines, f'{{"iteration": 3, "loss": {long}}}', '{"iter']))
    assert metrics.read_series(attempt, ["loss"])["loss"] == Series("000", ((1, 2.0),))


def test_iterations_far_above_the_others_lie_outside_the_plot() -> None:
    points = ((1, 30.0), *((number, 0.5) for number in range(2, 20)))
    plot = training.plot_of(training.METRICS[1], [Series("000", points)])
    assert plot is not None
    assert plot.layout["yaxis"]["range"] == [0, 2.0]
    assert plot.description.endswith("1 iteration lies above the plot; double-click it to show all.")


def test_long_runs_are_thinned_and_say_so() -> None:
    long = Series("000", tuple((number, float(number % 7)) for number in range(100_000)))
    short = Series("001", ((100_000, 1.0),))
    plot = training.plot_of(training.METRICS[0], [long, short])
    assert plot is not None
    counts = [len(line["x"]) for line in plot.data]
    assert 2000 < counts[0] <= training.LIMIT
    assert counts[1] == 1
    assert plot.description.endswith(
        f"{sum(counts)} of 100001 points are drawn: the lowest and the highest of each stretch."
    )


@pytest.mark.parametrize("count", [0, 1, 10, 11, 12, 37, 1000])
def test_thinning_keeps_the_ends_and_every_extreme(count: int) -> None:
    points: Points = tuple((number, 0.0) for number in range(count))
    if count > 30:
        points = (*points[:20], (20, 9.0), (21, -9.0), *points[22:])
    kept = downsample(points, 10)
    assert len(kept) <= 10
    assert list(kept) == sorted(set(kept))
    assert (kept[:1], kept[-1:]) == (points[:1], points[-1:])
    assert {value for _, value in kept} == {value for _, value in points}


def test_phases_are_durations(run: RunDirectory) -> None:
    events = (("imports", 10, 10), ("first_step", 14, 3), ("save", 20, 2), ("save", 30, 4), ("own", 31, None))
    make_attempt(run, timeline=tuple({"event": name, "time": at, "seconds": s} for name, at, s in events))
    bars, table = phases(subject(run))
    assert isinstance(bars, Plot)
    assert isinstance(table, Table)
    assert [(bar["name"], bar["x"]) for bar in bars.data] == [
        ("imports and configuration", [10]),
        ("first iteration", [3]),
    ]
    assert bars.description == "attempt 000: 13 s."
    assert table.rows == (
        ("000", "imports and configuration", "1", "10.00", "", "10.0 s"),
        ("000", "first iteration", "1", "3.00", "", "14.0 s"),
        ("000", "saving checkpoints", "2", "6.00", "4.00", "30.0 s"),
        ("000", "own", "1", "", "", "31.0 s"),
    )


def test_an_attempt_without_any_file_is_none(tmp_path: Path) -> None:
    assert metrics.read_series(Attempt(tmp_path / "000"), ["loss"]) == {"loss": Series("000", ())}


def test_a_run_that_was_not_profiled_has_no_such_section(run: RunDirectory) -> None:
    make_attempt(run)
    assert captures(subject(run)) == ()


def test_captures_of_torch(tmp_path: Path) -> None:
    pytest.importorskip("polars", reason="polars is not installed")
    run = run_of(tmp_path)
    kernels = [{"ph": "X", "name": name, "cat": "kernel", "ts": at, "dur": 5} for name, at in ((GEMM, 0), (REDUCE, 5))]
    leave(run, 0, trace([*STEPS, *kernels]))
    blocks = captures(subject(run))
    listed, shares, top = of_kind(Table, blocks)
    assert [row[:4] for row in listed.rows] == [("000", "torch", "0", "0"), ("000", "torch", "1", "")]
    assert shares.rows == (("000", "0", "2", "0.01", "50.0%", "25.0%", "25.0%", "50.0%"),)
    assert (top.title, [row[-1] for row in top.rows]) == (
        "The kernels with the most time: attempt 000, rank 0",
        [GEMM, REDUCE],
    )
    (bars,) = of_kind(Plot, blocks)
    assert [(bar["name"], bar["x"], bar["text"]) for bar in bars.data] == [
        ("compute", [0.0025], ["25%"]),
        ("exposed communication", [0.0025], ["25%"]),
        ("idle", [0.005], ["50%"]),
    ]
    assert [each.text for each in of_kind(Text, blocks)] == [
        "attempt 000, rank 1: the rank left no record of its capture: the attempt is still running"
    ]


def test_captures_of_viztracer_have_calls_and_no_bars(tmp_path: Path) -> None:
    pytest.importorskip("polars", reason="polars is not installed")
    run = run_of(tmp_path, "viztracer", (0,))
    calls = [{"ph": "X", "name": f"step {step} (builtin.py:77)", "cat": "FEE"} for step in (2, 3)]
    calls.append({"ph": "X", "name": "forward (model.py:3)", "cat": "FEE"})
    leave(run, 0, trace(calls), "viztracer")
    blocks = captures(subject(run))
    assert of_kind(Plot, blocks) == []
    assert of_kind(Table, blocks)[-1].title == "The calls with the most time: attempt 000, rank 0"


def test_captures_of_nsys(tmp_path: Path) -> None:
    pytest.importorskip("polars", reason="polars is not installed")
    run = run_of(tmp_path, "nsys", (0,))
    path = leave(run, 0, b"report", "nsys", state="captured")
    around = {"opens": True, "kernels": 4, "file": path.name, "bytes": 6}
    (path.parent / f"{path.stem}.nsys.json").write_text(json.dumps(around))
    export_of(path.with_suffix(".sqlite"))
    (bars,) = of_kind(Plot, captures(subject(run)))
    assert [bar["x"] for bar in bars.data] == [[0.00275], [0.001], [0.00125]]


def test_without_polars_the_list_is_there_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    run = run_of(tmp_path, ranks=(0,))
    leave(run, 0, trace())
    blocks = captures(subject(run))
    assert len(of_kind(Table, blocks)) == 1
    assert of_kind(Text, blocks)[-1].text.endswith("pip install 'megatron-launcher[analysis]'")
