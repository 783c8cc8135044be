"""The page of several runs: numbers, curves over each other, what differs."""

import json
from pathlib import Path

import pytest

from launcher._util.errors import RequestError
from launcher.cli.main import main
from launcher.correlate.runs_page import MOST, read_run, sections, write_runs_page
from launcher.report.page.content import Plot, Table
from launcher.rundir import RunDirectory
from tests.report.blocks import LAUNCHED, of_kind
from tests.watch.run_dirs import iteration, make_attempt, make_run


def made(root: Path, number: int, *, rate: str, speed: float, variable: str = "0") -> RunDirectory:
    run = make_run(root / "small" / f"2026092{number}-101500-abcd", LAUNCHED, backend="local", world_size=8)
    overrides = [{"key": "optimizer.lr", "text": f"optimizer.lr={rate}", "value": float(rate)}]
    argv = {"recipe": {"path": "recipe/small.py", "function": "configure"}, "overrides": overrides}
    plan = {**run.plan, "argv": argv, "overrides": [f"optimizer.lr={rate}"], "image": {"name": f"image-{number}"}}
    plan["source"] = {"commit": f"{number}" * 8, "changed": ["x.py"]}
    (run.path / "plan.json").write_text(json.dumps(plan))
    more = {"tokens_per_second": 1000 / speed, "memory_bytes": number << 30, "tokens": 100}
    for attempt in range(2):
        steps = range(1 + 3 * attempt, 5 + 3 * attempt)
        make_attempt(run, attempt, metrics=tuple(iteration(step, seconds=speed, **more) for step in steps))  # type: ignore[arg-type]
    environment = {"NCCL_DEBUG": "INFO", "FLAG": variable, "SLURM_JOB_ID": str(number)}
    (run.attempt(1).path / "environment.json").write_text(json.dumps({"environment": environment, "left_out": []}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    root = tmp_path / "runs"
    return [
        made(root, 1, rate="0.1", speed=1.0),
        made(root, 2, rate="0.1", speed=2.0, variable="1"),
        made(root, 3, rate="0.2", speed=4.0),
    ]


def test_three_runs_beside_each_other(runs: list[RunDirectory]) -> None:
    found = {each.name: each.blocks for each in sections([read_run(run, at, 300) for at, run in enumerate(runs)])}
    assert list(found) == ["numbers", "training", "settings", "environment"]
    (numbers,) = of_kind(Table, found["numbers"])
    assert [row[1:7] for row in numbers.rows] == [
        ("7", "3", "1", "1,000", "", "1.0"),
        ("7", "3", "2", "500", "", "2.0"),
        ("7", "3", "4", "250", "", "3.0"),
    ]
    assert [row[8:10] for row in numbers.rows] == [(f"{at}" * 8 + "+changes", f"image-{at}") for at in (1, 2, 3)]
    loss = of_kind(Plot, found["training"])[0]
    names = [f"small/{run.path.name}" for run in runs]
    assert [line["name"] for line in loss.data] == [name for name in names for _ in range(2)], "two attempts each"
    assert [line.get("showlegend", True) for line in loss.data] == [True, False] * 3
    assert len({line["line"]["color"] for line in loss.data}) == 3
    (settings,) = of_kind(Table, found["settings"])
    assert settings.rows == (("optimizer.lr", "0.1", "0.1", "0.2", "numbers"),)
    (variables,) = of_kind(Table, found["environment"])
    assert variables.rows == (("FLAG", "0", "1", "0"),), "the number of a job is each run's own"


def test_the_command(
    runs: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    monkeypatch.chdir(tmp_path)
    assert main(["page", *(str(run.path) for run in runs)]) == 0
    assert capsys.readouterr().err == f"page: {tmp_path / 'comparison.html'}\n"
    assert "<h1>3 runs</h1>" in (tmp_path / "comparison.html").read_text()
    assert main(["page", str(runs[0].path), str(runs[0].path), "--output", "x.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(tmp_path / "x.html")
    assert f"<h1>small/{runs[0].path.name}</h1>" in (tmp_path / "x.html").read_text(), (
        "a run that is named twice is one"
    )


def test_too_many_runs_are_refused(runs: list[RunDirectory]) -> None:
    with pytest.raises(RequestError, match=f"at most {MOST} runs"):
        write_runs_page([str(runs[0].path)] * (MOST + 1), None)


def test_runs_without_anything_in_common(tmp_path: Path) -> None:
    empty = make_run(tmp_path / "a" / "1")
    damaged = make_run(tmp_path / "b" / "2", LAUNCHED)
    make_attempt(damaged).metrics.write_text("{")
    found = sections([read_run(run, at, 300) for at, run in enumerate((empty, damaged))])
    assert [each.name for each in found] == ["numbers"]
