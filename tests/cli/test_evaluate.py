"""`launcher evaluate`: tasks of lm-evaluation-harness on a run's export, noted in the run, shown by status and page."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher.api.progress import Silent
from launcher.backends import evaluation
from launcher.backends.stack_program import StackProgram
from launcher.contract.evaluation import EvaluationRecord, EvaluationRequest
from launcher.report.page.content import Subject, Table
from launcher.report.page.evaluations import evaluations
from launcher.rundir import RunDirectory
from launcher.watch.evaluations import sentences
from tests.backends.running import user_of
from tests.cli.test_generate import model
from tests.support.warm import warm_python

__all__ = ["model"]

pytestmark = pytest.mark.timeout(900)

TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {samples}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.megatron
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_a_task_of_ones_own_is_evaluated_without_network(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = user_of(tmp_path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    python = ("--python", warm_python())
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text("{}")
    user.run("convert", "import", str(model), "run/checkpoints", "--no-logits", *python)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/ours.yaml").write_text(TASK.format(samples=tmp_path / "tasks/samples.jsonl"))
    rows = ({"context": f"w{n} w{n + 1}", "choices": [" w3", " w4"], "gold": n % 2} for n in range(10))
    (tmp_path / "tasks/samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    words = ("evaluate", "run", "--tasks", "ours", "--include-path", "tasks", *python)
    done = user.run(*words, "--json", environ=offline, timeout_s=400)
    record = json.loads(done.stdout)
    held = json.loads(Path(record.pop("file")).read_text())
    assert held == record and record["iteration"] == 0 and record["tasks"]["ours"]["samples"] == 10
    accuracy = record["tasks"]["ours"]["metrics"]["acc"]
    assert 0 <= accuracy["value"] <= 1 and accuracy["stderr"] > 0 and accuracy["higher_is_better"] is True
    assert record["model"] == str(run / "exports/iter_0000000")
    assert json.loads((run / "exports/iter_0000000/parity.json").read_text())["ok"]
    shown = user.run("status", "run", status=None).stdout
    assert f"evaluated at iteration 0: ours acc {accuracy['value']:.6g} ± " in shown and ", 10 samples" in shown

    # The export is used again; a limit stands beside the number.
    made = (run / "exports/iter_0000000/model.safetensors").stat().st_mtime_ns
    assert "the first 4 samples of each task" in user.run(*words, "--limit", "4", environ=offline, timeout_s=400).stderr
    assert (run / "exports/iter_0000000/model.safetensors").stat().st_mtime_ns == made
    assert "4 (limit 4) samples" in user.run("status", "run", status=None).stdout

    wrong = ("evaluate", "run", "--include-path", "tasks", *python)
    refused = user.run(*wrong, "--tasks", "oars", status=2, environ=offline, timeout_s=400).stderr
    assert "there is no task 'oars'" in refused and len(list((run / "evaluations").iterdir())) == 2


def noted(run: RunDirectory, name: str, ended: float, value: float | None, **more: object) -> None:
    record: EvaluationRecord = {
        "version": 1,
        "iteration": 50,
        "model": "/models/mine",
        "tasks": {
            "ours": {
                "metrics": {"acc": {"value": value, "stderr": 0.0251, "higher_is_better": True}},
                "samples": 400,
                "shots": 0,
            }
        },
        "limit": None,
        "ended": ended,
        "seconds": 1.5,
        "device": "cpu",
        "versions": {},
    }
    run.evaluations.mkdir(exist_ok=True)
    (run.evaluations / f"{name}.json").write_text(json.dumps({**record, **more}))


def test_a_value_hides_none_with_other_examples_in_the_prompt(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    metrics = {"acc": {"value": 0.75, "stderr": None, "higher_is_better": True}}
    noted(run, "a", 3e8, 0.5)
    noted(run, "b", 4e8, None, tasks={"ours": {"metrics": metrics, "samples": 400, "shots": 5}})
    assert sentences(run) == [
        "evaluated at iteration 50: ours acc 0.5 ± 0.025, 400 samples",
        "evaluated at iteration 50: ours acc (5-shot) 0.75, 400 samples",
    ]


def test_status_and_page_show_the_newest_value_of_each_metric(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    subject = Subject(run, LocalShell(), 1e9)
    assert sentences(run) == [] and evaluations(subject) == ()
    noted(run, "a", 3e8, 0.5)
    noted(run, "b", 2e8, 0.4)
    noted(run, "c", 4e8, None, iteration=60)
    (run.evaluations / "d.json").write_text('{"version": 1, "tasks": 3}')
    assert sentences(run) == [
        "evaluated at iteration 50: ours acc 0.5 ± 0.025, 400 samples",
        "evaluated at iteration 60: ours acc not a number, 400 samples",
    ]
    (table,) = evaluations(subject)
    assert isinstance(table, Table)
    assert [row[:5] for row in table.rows] == [
        ("50", "ours", "acc", "0.5 ± 0.025", "400"),
        ("60", "ours", "acc", "not a number", "400"),
    ]


def test_values_with_and_without_examples_stand_beside_each_other(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for shots, value in ((0, 0.4), (5, 0.6)):
        metrics = {"acc": {"value": value, "stderr": None, "higher_is_better": True}}
        tasks = {"ours": {"metrics": metrics, "samples": 400, "shots": shots}}
        noted(run, str(shots), 3e8 + shots, None, tasks=tasks)
    assert sentences(run) == [
        "evaluated at iteration 50: ours acc 0.4, 400 samples",
        "evaluated at iteration 50: ours acc (5-shot) 0.6, 400 samples",
    ]


NOTHING: dict[str, Any] = {"tasks": {}, "limit": None, "seconds": 1.0, "device": "cpu", "versions": {}}
"""What a program answers that has evaluated no task."""


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run with a checkpoint that counts as whole and its export; evaluating it records nothing but the request."""
    run = RunDirectory(tmp_path / "run")
    checkpoint = run.checkpoints / "iter_0000005"
    for directory in (checkpoint, run.export(5)):
        directory.mkdir(parents=True)
    (checkpoint / ".metadata").write_text("")
    report = {"action": "export", "ok": True, "source": str(checkpoint)}
    (run.export(5) / "parity.json").write_text(json.dumps(report))
    monkeypatch.setattr(evaluation, "call", lambda *_: NOTHING)
    monkeypatch.setattr("launcher.contract.checkpoints.is_complete", lambda _: True)
    return run


def perform(run: RunDirectory, model: Path | str = "") -> str:
    """Evaluate; return the model that was, or why none was."""
    request = EvaluationRequest(model=str(model), tasks=("ours",))
    try:
        found = evaluation.evaluate(run.path, request, None, "python", LocalShell(), Silent())
    except RequestError as error:
        return error.message
    return str(found["model"])


def test_a_model_counts_for_a_checkpoint_only_as_its_export(exported: RunDirectory, tmp_path: Path) -> None:
    assert perform(exported) == perform(exported, exported.export(5)) == str(exported.export(5))
    other = tmp_path / "other"
    other.mkdir()
    assert "no parity.json of an export" in perform(exported, other)
    report = {"action": "export", "ok": True, "source": str(tmp_path / "elsewhere")}
    (other / "parity.json").write_text(json.dumps(report))
    assert f"its parity.json names {tmp_path}/elsewhere" in perform(exported, other)
    assert len(list(exported.evaluations.iterdir())) == 2


def test_an_export_that_another_evaluation_makes_meanwhile_is_used(
    exported: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = exported.export(5) / "parity.json"
    text = report.read_text()
    report.unlink()

    def call(program: StackProgram, *_: Any) -> Any:
        if program.option == "--convert":
            report.write_text(text)
            raise RequestError("the directory exists and is not empty")
        return NOTHING

    monkeypatch.setattr(evaluation, "call", call)
    assert perform(exported) == str(exported.export(5))


def test_an_export_from_before_the_checkpoint_was_written_again_is_not_used(exported: RunDirectory) -> None:
    os.utime(exported.export(5) / "parity.json", (1, 1))
    assert "was written after the run's export" in perform(exported)
    assert list(exported.evaluations.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("nobodys", "--tasks", "a"), "nobodys"),
        (("run",), "--tasks"),
        (("run", "--tasks", "a,,b"), "one of the names is empty"),
        (("run", "--tasks", "a"), "no checkpoint of this run is whole"),
        (("run", "--tasks", "a", "--iteration", "7"), "iteration 7 is not a whole checkpoint"),
        (("run", "--tasks", "a", "--include-path", "nowhere"), "there is no such directory"),
        (("run", "--tasks", "a", "--model", "nowhere"), "there is no such directory"),
        (("run", "--tasks", "a", "--limit", "0"), "0 is not a whole number of at least 1"),
        (("run", "--tasks", "a", "--num-fewshot", "x"), "'x' is not a whole number"),
        (("run", "--tasks", "a", "--in-job-on", "local"), "has no Slurm to run a job on"),
        (("run", "--tasks", "a", "--cpus", "2"), "--in-job-on, which is not given"),
    ],
)
def test_wrong_requests_are_refused_at_once(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    user = user_of(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/plan.json").write_text("{}")
    assert says in user.run("evaluate", *options, status=2).stderr
