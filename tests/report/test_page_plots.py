"""The plots of a page: lines over iterations, phases, and time shares of a rank's steps."""

import json
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.files import JsonLines
from launcher.report.page import metrics, training
from launcher.report.page.captures import captures
from launcher.report.page.content import Controls, Plot, Table, Text
from launcher.report.page.phases import phases
from launcher.rundir import Attempt, RunDirectory
from tests.report.blocks import LAUNCHED, of_kind, subject
from tests.report.test_activities import GEMM, REDUCE, export_of
from tests.report.test_profiles import STEPS, leave, run_of, trace
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")


def plots_of(run: RunDirectory) -> dict[str, Plot]:
    return {plot.title: plot for plot in of_kind(Plot, training.training(subject(run)))}


def line_of(name: str, values: Sequence[float | None], **more: Any) -> training.Line:
    """A line whose only metrics are the values, from iteration 1 on."""
    stretches = metrics.Stretches(training.NAMES)
    columns = dict.fromkeys((*training.NAMES, "tokens", "time"), values)
    stretches.add({"iteration": [float(number) for number in range(1, len(values) + 1)], **columns})
    stretches.thin(more.pop("limit", metrics.LIMIT))
    return training.Line(name, stretches.curves(name), {}, **more)


def test_every_attempt_has_its_line(run: RunDirectory) -> None:
    make_attempt(run, metrics=(iteration(1, grad_norm=2.0), iteration(2, grad_norm=float("nan"))))
    make_attempt(run, 1, metrics=(iteration(2, tflops_per_gpu=0.01), iteration(3, loss=None)))
    plots = plots_of(run)
    assert list(plots) == ["Loss", "Gradient norm", "Time of an iteration"], "no TFLOP/s: a CPU's mean nothing"
    loss = [(line["name"], line["x"], line["y"]) for line in plots["Loss"].data]
    assert loss == [("000", [1, 2], [9.0, 8.0]), ("001", [2, 3], [8.0, None])]
    assert plots["Loss"].description == "Lowest 8 (iteration 2), highest 9 (iteration 1), last 8 (iteration 2)."
    assert plots["Gradient norm"].description.endswith("It was not finite once, first in iteration 2.")
    assert plots["Loss"].layout["showlegend"]
    assert not plots["Gradient norm"].layout["showlegend"]


def test_all_that_is_recorded_has_a_plot(run: RunDirectory) -> None:
    numbers: dict[str, Any] = {
        "learning_rate": 3e-4,
        "tokens_per_second": 1e6,
        "tflops_per_gpu": 400.0,
        "memory_bytes": 40 << 30,
    }
    evaluation = {"event": "evaluation", "time": BEGIN, "seconds": 1, "iteration": 2, "losses": {"lm loss": 7.5}}
    lines = tuple(iteration(at, grad_norm=1.0, tokens=1000, **numbers) for at in (1, 2, 3))
    make_attempt(run, metrics=lines, timeline=(evaluation,))
    plots = plots_of(run)
    assert list(plots) == [metric.title for metric in training.METRICS]
    assert [(line["name"], line["x"], line["y"]) for line in plots["Loss"].data][1:] == [
        ("validation, 000", [2], [7.5])
    ]
    assert plots["Most memory of a GPU"].data[0]["y"] == [40.0] * 3
    assert "MFU is unknown" in of_kind(Text, training.training(subject(run)))[0].text
    assert plots["Loss"].axes[0] == {"tokens": [1000, 2000, 3000], "hours": [0.0, 0.00028, 0.00056]}
    assert plots["Loss"].axes[1] == {"tokens": [2000], "hours": [0.00028]}
    assert of_kind(Controls, training.training(subject(run)))[0].axes == ("tokens", "hours")


def test_mfu_is_the_share_of_the_peak_that_the_plan_states(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text(json.dumps({**run.plan, "peak_tflops": 989.0}))
    make_attempt(run, metrics=(iteration(1, tflops_per_gpu=494.5),))
    assert plots_of(run)["MFU"].data[0]["y"] == [50.0]
    assert of_kind(Text, training.training(subject(run))) == []


def test_tokens_go_on_where_an_earlier_attempt_shows_how_many_there_were(run: RunDirectory) -> None:
    make_attempt(run, metrics=tuple(iteration(at, tokens=10) for at in (1, 2, 3)))
    make_attempt(run, 1, metrics=tuple(iteration(at, tokens=10) for at in (3, 4)))
    assert [axes["tokens"] for axes in plots_of(run)["Loss"].axes] == [[10, 20, 30], [30, 40]]
    make_attempt(run, 2, metrics=(iteration(9, tokens=10),))
    assert "tokens" not in plots_of(run)["Loss"].axes[2], "iterations 5 to 8 are missing"
    assert of_kind(Controls, training.training(subject(run)))[0].axes == ("hours",)


def test_more_attempts_than_colours_have_no_legend() -> None:
    plot = training.plot_of(training.METRICS[0], [line_of(f"{number:03d}", [1.0]) for number in range(9)])
    assert plot is not None
    assert not plot.layout["showlegend"]
    assert plot.description.endswith("9 attempts, which share 8 colours; point at a line to see its attempt.")


def test_lines_that_are_not_metrics_are_left_out(run: RunDirectory) -> None:
    attempt = make_attempt(run)
    long = "9" * 400
    lines = ("[1]", '{"iteration": 1, "loss": 2}', '{"loss": 3}', '{"iteration": 2, "loss": true}')
    attempt.metrics.write_text("\n".join([*lines, f'{{"iteration": 3, "loss": {long}}}', '{"iter']))
    found = metrics.read_stretches(attempt, ["loss"]).curves("000")
    assert (found.iterations, found.of["loss"].mean, found.of["loss"].count) == ((1, 2, 3), (2.0, None, None), 1)


def written(attempt: Attempt, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines as the job does: by the same class, with the same keys in the same order."""
    out = JsonLines(attempt.metrics)
    for line in lines:
        out.append(line)
    out.close()


def full_line(number: int, **values: Any) -> dict[str, Any]:
    given: dict[str, Any] = dict.fromkeys(
        ("loss", "grad_norm", "learning_rate", "seconds", "tokens", "tokens_per_second"), 1.0
    )
    given |= {"tflops_per_gpu": None, "memory_bytes": None, "time": BEGIN + number}
    return {"iteration": number, "train_iters": 99, **given, **values}


@pytest.mark.parametrize("chunk", [100, 1000, 1 << 20])
def test_lines_of_the_job_are_read_as_json_reads_them(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """The fast way and the other one, whatever the lines hold and wherever a read ends."""
    attempt = make_attempt(run)
    odd: dict[int, dict[str, Any]] = {
        3: {"loss": float("nan")},
        5: {"loss": None},
        7: {"grad_norm": 1e308 * 10},
        9: {"losses": {"mtp loss": 2.5}},
    }
    written(attempt, ({**full_line(at, loss=at / 7), **odd.get(at, {})} for at in range(1, 40)))
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    fast = metrics.read_stretches(attempt, training.NAMES).curves("000")
    monkeypatch.setattr(metrics, "_columns", metrics._parsed)
    slow = metrics.read_stretches(attempt, training.NAMES).curves("000")
    assert fast == slow
    loss = fast.of["loss"]
    assert (loss.not_finite, loss.first_not_finite, loss.count) == (1, 3, 37)
    assert fast.of["grad_norm"].first_not_finite == 7
    assert loss.mean[:5] == (1 / 7, 2 / 7, None, 4 / 7, None)


def test_lines_of_the_job_are_read_the_fast_way(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = make_attempt(run)
    written(attempt, (full_line(at, loss=at / 7, losses={"mtp loss": 2.0}) for at in range(1, 40)))
    monkeypatch.setattr(metrics, "_parsed", None)
    assert metrics.read_stretches(attempt, training.NAMES).lines == 39


def test_iterations_far_above_the_others_lie_outside_the_plot() -> None:
    plot = training.plot_of(training.METRICS[3], [line_of("000", [30.0, *[0.5] * 18])])
    assert plot is not None
    assert plot.layout["yaxis"]["range"] == [0, 2.0]
    assert plot.description.endswith("1 iteration lies above the plot; double-click it to show all.")


def test_long_runs_are_thinned_and_no_spike_is_lost(run: RunDirectory) -> None:
    """A hundred thousand iterations, one of which has a spike, and a short second attempt."""
    attempt = make_attempt(run)
    text = "".join(f"{json.dumps(full_line(at, loss=99.0 if at == 70_001 else at % 7))}\n" for at in range(1, 100_001))
    attempt.metrics.write_text(text)
    make_attempt(run, 1, metrics=(full_line(100_001, loss=1.0),))
    plot = plots_of(run)["Loss"]
    low, high, mean, second = plot.data
    assert 500 <= len(mean["x"]) <= metrics.LIMIT
    assert (low["x"], high["x"]) == (mean["x"], mean["x"])
    assert (max(high["y"]), min(low["y"]), second["y"]) == (99.0, 0.0, [1.0])
    spike = high["y"].index(99.0)
    assert mean["x"][spike - 1] < 70_001 <= mean["x"][spike]
    assert sum(mean["y"]) / len(mean["y"]) == pytest.approx(3.0, abs=0.01)
    assert "highest 99 (iteration 70001)" in plot.description
    assert "A point of the line is the mean of 128 iterations, and the band shows" in plot.description


def test_a_longer_file_needs_no_more_memory(run: RunDirectory) -> None:
    attempt = make_attempt(run)

    def peak(lines: int) -> int:
        attempt.metrics.write_text("".join(f"{json.dumps(full_line(at, loss=at % 7))}\n" for at in range(1, lines)))
        tracemalloc.start()
        try:
            assert metrics.read_stretches(attempt, training.NAMES).lines == lines - 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is made once
    assert peak(60_000) < 1.3 * peak(20_000)


@pytest.mark.parametrize("count", [0, 1, 10, 11, 12, 37, 1000])
@pytest.mark.parametrize("step", [1, 3, 64, 5000])
def test_stretches_keep_the_ends_the_sums_and_every_extreme(count: int, step: int) -> None:
    values: list[float | None] = [float(number % 5) if number % 11 else None for number in range(count)]
    if count > 30:
        values[20:22] = [9.0, -9.0]
    stretches = metrics.Stretches(["loss"], 10)
    for begin in range(0, count, step):
        numbers = [float(number) for number in range(begin, min(count, begin + step))]
        part = values[begin : begin + step]
        stretches.add({"iteration": numbers, "loss": part, "tokens": [2.0] * len(part), "time": numbers})
    stretches.thin(10)
    found = stretches.curves("000")
    known = [value for value in values if value is not None]
    loss = found.of["loss"]
    assert len(found.iterations) <= 10
    assert found.iterations[-1:] == ((count - 1,) if count else ())
    assert found.tokens[-1:] == ((2.0 * count,) if count else ())
    assert (loss.count, found.lines) == (len(known), count)
    if known:
        assert max(value for value in loss.high if value is not None) == max(known)
        assert min(value for value in loss.low if value is not None) == min(known)
        assert loss.lowest == (min(known), values.index(min(known)))
        assert loss.last == (known[-1], max(at for at, value in enumerate(values) if value is not None))


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
    assert metrics.read_stretches(Attempt(tmp_path / "000"), ["loss"]).curves("000").lines == 0


def test_a_run_that_was_not_profiled_has_no_such_section(run: RunDirectory) -> None:
    make_attempt(run)
    assert captures(subject(run)) == ()


def test_captures_of_torch(tmp_path: Path) -> None:
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
    run = run_of(tmp_path, "viztracer", (0,))
    calls = [{"ph": "X", "name": f"step {step} (builtin.py:77)", "cat": "FEE"} for step in (2, 3)]
    calls.append({"ph": "X", "name": "forward (model.py:3)", "cat": "FEE"})
    leave(run, 0, trace(calls), "viztracer")
    blocks = captures(subject(run))
    assert of_kind(Plot, blocks) == []
    assert of_kind(Table, blocks)[-1].title == "The calls with the most time: attempt 000, rank 0"


def test_captures_of_nsys(tmp_path: Path) -> None:
    run = run_of(tmp_path, "nsys", (0,))
    path = leave(run, 0, b"report", "nsys", state="captured")
    around = {"opens": True, "kernels": 4, "file": path.name, "bytes": 6}
    (path.parent / f"{path.stem}.nsys.json").write_text(json.dumps(around))
    export_of(path.with_suffix(".sqlite"))
    (bars,) = of_kind(Plot, captures(subject(run)))
    assert [bar["x"] for bar in bars.data] == [[0.00275], [0.001], [0.00125]]
