"""--single-sbatch, without Slurm: what the one job runs before its cases, and which cases it begins."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.api.progress import Silent
from launcher.cloudai import single
from launcher.cloudai.gates import VBOOST
from launcher.contract import files
from launcher.slurm.submit import Submission


def planned(*names: str, plan_only: bool = False) -> Any:
    gates = tuple(json.dumps(VBOOST if name == "vboost" else {"name": name}) for name in names)
    request = SimpleNamespace(gates=gates, gpus_per_node=len(names))
    return SimpleNamespace(request=request, plan_only=plan_only, notes=(), nodes=1)


def test_each_case_has_its_gates_once() -> None:
    case: Any = None
    cases = [
        (case, None),
        (case, planned("dry", plan_only=True)),
        (case, planned("nccl")),
        (case, planned("vboost", "nccl")),
    ]
    assert [json.loads(gate)["name"] for gate in single.gates_of(cases)] == ["vboost", "nccl"]


def test_one_job_has_one_value_of_each_secret() -> None:
    def case(name: str, value: str) -> Any:
        return SimpleNamespace(name=name), SimpleNamespace(environment=SimpleNamespace(secrets={"HF_TOKEN": value}))

    assert single.secrets_of([case("a/0", "1"), case("b/0", "1")]) == {"HF_TOKEN": "1"}
    with pytest.raises(ConfigError, match="a/0 and c/0 give HF_TOKEN different values"):
        single.secrets_of([case("a/0", "1"), case("b/0", "1"), case("c/0", "2")])


@pytest.mark.parametrize(
    ("cases", "warned"),
    [
        ({"a": (2, "n1,n2"), "b": (2, "n2,n1")}, []),
        ({"a": (2, "n1,n2"), "b": (1, None)}, []),
        ({"a": (2, "n1,n2"), "b": (4, None)}, ["a"]),
        ({"a": (2, "n1,n2"), "b": (2, "n3,n4")}, ["a", "b"]),
    ],
)
def test_a_case_that_may_run_on_other_nodes_is_named(
    cases: dict[str, tuple[int, str | None]], warned: list[str]
) -> None:
    given = [asking(name, nodes, nodelist=names) for name, (nodes, names) in cases.items()]
    assert [name for name, _ in single.left_out(given)] == warned


def test_what_the_one_job_cannot_give_is_said() -> None:
    given = [
        asking("same", 1, sbatch={"reservation": "x"}),
        asking("large", 2, sbatch={"reservation": "x"}, partition="p"),
        asking("other", 1, sbatch={"reservation": "y"}, keep_going=True),
    ]
    assert [(name, words.partition(",")[0]) for name, words in single.left_out(given)] == [
        ("other", "asks for sbatch {'reservation': 'y'}"),
        ("other", "max_retries has no effect in one job: a run that has failed is not begun again"),
    ]


def test_the_one_job_has_the_gpus_of_every_case(tmp_path: Path) -> None:
    few, many = asking("few", 1, gpus_per_node=2), asking("many", 1)
    assert single._largest([few, many]) is many
    wide = asking("wide", 2, gpus_per_node=4)
    with pytest.raises(ConfigError, match="many needs 8 GPUs of a node, and wide, which has the most nodes, 4"):
        single.directives_of([many, wide], "name", tmp_path)


def asking(name: str, nodes: int, **more: Any) -> Any:
    """A case of so many nodes."""
    stated: dict[str, Any] = {"nodelist": None, "gpus_per_node": 8, "sbatch": {}, "keep_going": None}
    stated |= {"partition": None, "account": None, "qos": None}
    request = SimpleNamespace(**{**stated, **more})
    return SimpleNamespace(name=name), SimpleNamespace(nodes=nodes, plan_only=False, request=request)


def test_no_case_is_begun_once_the_job_is_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = list[str]()

    def run(directory: Path, values: Mapping[str, Any], counted: Any) -> bool:
        begun.append(directory.name)
        os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does before a requeue
        return True

    monkeypatch.setattr(single, "_run", run)
    runs = [{"case": f"/results/{name}", "request": {}} for name in ("first", "second")]
    files.write_json(tmp_path / "single/runs.json", {"version": 1, "runs": runs})
    assert single.main([str(tmp_path)]) == 1 and begun == ["first"]


def test_what_the_job_noted_before_its_cases_were_recorded_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "run_record_text", lambda *_: "")
    seen = dict[str, Any]()
    monkeypatch.setattr(single, "write_case", lambda *arguments: seen.update(arguments[3]))
    files.write_json(tmp_path / "one/0/case.json", {"run_dir": "/runs/one"})
    case: Any = SimpleNamespace(name="one/0")
    job = single.SingleJob(tmp_path)
    single._write_cases([(case, planned())], tmp_path, job, Submission("7", None), Silent())
    assert seen == {"run_dir": "/runs/one", "job": "7", "cluster": None, "single": True}
