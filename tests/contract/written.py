"""Everything that a run has left, held against the types of the contract."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.records.captures import CaptureRecord
from launcher.contract.records.checkpoints import CheckpointChoice, SumsAnswer, SumsRequest
from launcher.contract.records.environment import EnvironmentRecord, MegatronRecord, TrackersRecord
from launcher.contract.records.journal import JournalEvent
from launcher.contract.records.nodes import NodeTelemetry
from launcher.contract.records.ranks import ExitRecord, RankRecord
from launcher.contract.records.request import JobRequest
from launcher.contract.records.result import AttemptResult
from launcher.contract.records.timeline import MetricsLine, NetworkRecord, PlacementRecord, TimelineEvent
from launcher.contract.validation import problems
from tests.job.ranks import Run

KINDS: dict[str, Any] = {
    "argv.json": JobRequest,
    "journal.jsonl": JournalEvent,
    "record of a rank": RankRecord,
    "exit of a rank": ExitRecord,
    "timeline.jsonl": TimelineEvent,
    "metrics.jsonl": MetricsLine,
    "result.json": AttemptResult,
    "environment.json": EnvironmentRecord,
    "checkpoint.json": CheckpointChoice,
    "megatron.json": MegatronRecord,
    "trackers.json": TrackersRecord,
    "sums/*.request.json": SumsRequest,
    "sums/*.json": SumsAnswer,
    "network/*.json": NetworkRecord,
    "placement/*.json": PlacementRecord,
    "telemetry/*.json": NodeTelemetry,
    "profiles/*.record.json": CaptureRecord,
}
UNTYPED = ("*.seen.json",)
"""The toy's note of what it was given."""


def check_written(run: RunPaths) -> dict[str, int]:
    """Assert that each file has the form that the contract gives it; return the number of values of each pattern."""
    counts: dict[str, int] = {}
    found: list[str] = []
    for attempt in (AttemptPaths(path) for path in sorted(run.attempts_directory.iterdir())):
        found += _check(attempt.path, counts)
        assert not list(attempt.path.rglob("*.tmp"))
    found += _check(run.path, counts, deep=False)
    assert not found, "\n".join(found)
    return counts


def _check(directory: Path, counts: dict[str, int], deep: bool = True) -> list[str]:
    found = []
    for path in sorted(directory.rglob("*") if deep else directory.glob("*")):
        if path.suffix not in (".json", ".jsonl"):
            continue
        if any(path.match(pattern) for pattern in UNTYPED) or path.name == "plan.json":
            continue
        pattern = next((each for each in KINDS if path.relative_to(directory).match(each)), None)
        of_ranks = path.match("ranks/node-*.jsonl")
        if pattern is None and not of_ranks:
            found.append(f"{path}: no type describes it")
            continue
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for value in (json.loads(text) for text in texts if text or not of_ranks):
            if of_ranks:
                pattern = "exit of a rank" if "status" in value else "record of a rank"
            assert pattern is not None
            counts[pattern] = counts.get(pattern, 0) + 1
            found += [f"{path}: {sentence}" for sentence in problems(value, KINDS[pattern])]
    return found


def compose_result(run: Run, world_size: int = 2) -> str:
    """Have result.json composed as sbatch.sh has it; return the word."""
    program = RunPaths(run.path).result_program
    argv = [sys.executable, "-S", str(program), str(run.path), "000", str(world_size), "0"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
