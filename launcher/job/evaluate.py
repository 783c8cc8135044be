"""`python3 entrypoint.py --evaluate REQUEST`: tasks of lm-evaluation-harness on a directory that transformers loads."""

import difflib
import importlib
import math
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from ..contract import evaluation
from ..contract.evaluation import EvaluationRequest, TaskMetric, TaskResult
from ..contract.events import EventWriter
from . import reporting
from .errors import UserError, first_line
from .model import hf_files

_STDERR = "_stderr"
_NO_FILTER = "none"


def main(text: str) -> int:
    """Answer the request `text`. Exit status: 0 evaluated, 2 the request was wrong, 3 anything else failed."""
    return reporting.answer("--evaluate", text, evaluation.parse, _answer)


def _answer(request: EvaluationRequest, events: EventWriter) -> "dict[str, Any]":
    if not hf_files.holds_weights(Path(request.model)):
        raise UserError("this directory has no config.json with *.safetensors", where=request.model)
    began = time.monotonic()
    events.stage("loading lm-evaluation-harness")
    manager = _tasks(request)
    device = _device(request)
    events.stage("evaluating")
    harness = importlib.import_module("lm_eval")
    try:
        found = harness.simple_evaluate(
            model="hf",
            model_args={"pretrained": request.model, "dtype": "auto"},
            tasks=list(request.tasks),
            num_fewshot=request.num_fewshot,
            batch_size=request.batch_size,
            device=device,
            limit=request.limit,
            task_manager=manager,
            log_samples=False,
        )
    except (FileNotFoundError, ConnectionError, ValueError, KeyError) as error:
        raise UserError(
            f"the tasks cannot be evaluated: {type(error).__name__}: {first_line(error)}",
            where=f"--tasks {','.join(request.tasks)}",
            hint="data of a task that is not on this machine has to be fetched before, where there is network",
        ) from error
    return {
        "tasks": tasks_of(found),
        "limit": request.limit,
        "seconds": round(time.monotonic() - began, 1),
        "device": device,
        "versions": {name: version(name) for name in ("lm-eval", "transformers", "torch", "datasets")},
    }


def _tasks(request: EvaluationRequest) -> Any:
    """Return the harness's tasks. Raises UserError where it is not installed, or a name is not a task."""
    try:
        module = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise UserError(
            f"this needs lm-evaluation-harness, and the package {error.name} is not installed",
            hint="install the launcher's extra `evaluate`, or lm-eval, beside the training stack",
        ) from error
    if request.include_path is not None and not Path(request.include_path).is_dir():
        raise UserError("there is no such directory", where=f"--include-path {request.include_path}")
    try:
        manager = module.TaskManager(include_path=request.include_path)
    except Exception as error:  # YAML of the user's: any error of its parser
        raise UserError(
            f"its tasks cannot be read: {type(error).__name__}: {first_line(error)}",
            where=f"--include-path {request.include_path}",
        ) from error
    for name in request.tasks:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            guess = f"; did you mean {', '.join(near)}?" if near else ""
            raise UserError(f"there is no task {name!r}{guess}", where="--tasks", hint="--include-path DIR adds yours")
    return manager


def _device(request: EvaluationRequest) -> str:
    import torch

    seen = torch.cuda.is_available()
    if request.device == "gpu" and not seen:
        raise UserError("torch sees no GPU here", where="--device gpu")
    return "cuda" if seen and request.device != "cpu" else "cpu"


def tasks_of(found: "Mapping[str, Any]") -> "dict[str, TaskResult]":
    """Return the results of the harness by task. A metric's key there is `METRIC,FILTER`, its error's has `_stderr`."""
    tasks: dict[str, TaskResult] = {}
    for task, values in found["results"].items():
        metrics: dict[str, TaskMetric] = {}
        better = found.get("higher_is_better", {}).get(task, {})
        for key, value in values.items():
            name, comma, selected = key.partition(",")
            if not comma or name.endswith(_STDERR):
                continue
            shown = name if selected == _NO_FILTER else key
            metrics[shown] = {
                "value": _number(value),
                "stderr": _number(values.get(f"{name}{_STDERR},{selected}")),
                "higher_is_better": better.get(name),
            }
        samples = found.get("n-samples", {}).get(task, {}).get("effective")
        tasks[task] = {"metrics": metrics, "samples": samples, "shots": found.get("n-shot", {}).get(task)}
    return tasks


def _number(value: Any) -> Optional[float]:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else None
