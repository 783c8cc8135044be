"""The evaluation of an exported model by tasks of lm-evaluation-harness: its request, and the record of its results."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Optional, TypedDict

from .conversion import DEVICES

VERSION = 1


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, and with what. All paths are absolute."""

    model: str
    """A directory that transformers loads."""
    tasks: "tuple[str, ...]"
    """Names of tasks or groups, as `lm_eval --tasks` takes them."""
    include_path: Optional[str] = None
    """A directory with YAML files of further tasks."""
    limit: Optional[int] = None
    """Evaluate so many samples of each task only."""
    num_fewshot: Optional[int] = None
    """Examples in each prompt; None for what the task says."""
    batch_size: int = 8
    device: str = "auto"
    """One of contract.conversion.DEVICES."""

    def to_json(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(asdict(self))


class TaskMetric(TypedDict):
    """One number of a task."""

    value: Optional[float]
    """None where it is not a finite number."""
    stderr: Optional[float]
    """None where the harness computes none."""
    higher_is_better: Optional[bool]


class TaskResult(TypedDict):
    """What one task or group found; a metric with a filter has the name `METRIC,FILTER`."""

    metrics: dict[str, TaskMetric]
    samples: Optional[int]
    """None for a group."""
    shots: Optional[int]


class EvaluationRecord(TypedDict):
    """One evaluation of a run: `evaluations/iter_NNNNNNN-TIME.json`."""

    version: int
    iteration: int
    """Of the checkpoint that was exported."""
    model: str
    """The export that was evaluated."""
    tasks: dict[str, TaskResult]
    limit: Optional[int]
    """Samples of each task; null for all. Numbers with a limit are not comparable with others."""
    ended: float
    seconds: float
    device: str
    versions: dict[str, str]


def parse(text: str) -> EvaluationRequest:
    """Return the request in `text`. Raises ValueError or TypeError for anything else."""
    values: dict[str, Any] = json.loads(text)
    request = EvaluationRequest(**{**values, "tasks": tuple(values["tasks"])})
    if request.device not in DEVICES or not request.tasks or request.batch_size < 1:
        raise ValueError(text)
    return request
