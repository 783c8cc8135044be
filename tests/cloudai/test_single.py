"""--single-sbatch, without Slurm: what the one job runs before its cases, and which cases it begins."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.api.progress import Silent
from launcher.cloudai import single
from launcher.cloudai.gates import VBOOST
from launcher.contract import files
from launcher.slurm.submit import Submission


def planned(*names: str, plan_only: bool = False) -> Any:
    gates = tuple(json.dumps(VBOOST if name == "vboost" else {"name": name}) for name in names)
    return SimpleNamespace(request=SimpleNamespace(gates=gates), plan_only=plan_only, notes=())


def test_each_case_has_its_gates_once() -> None:
    case: Any = None
    cases = [
        (case, None),
        (case, planned("dry", plan_only=True)),
        (case, planned("nccl")),
        (case, planned("vboost", "nccl")),
    ]
    assert [json.loads(gate)["name"] for gate in single.gates_of(cases)] == ["nccl", "vboost"]


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
