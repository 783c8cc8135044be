"""Run directories as a run leaves them, written by hand."""

import json
import os
from pathlib import Path
from typing import Any

from launcher.rundir import Attempt, RunDirectory

BEGIN = 1_790_000_000.0
"""When the runs of these tests were started."""


def make_run(path: Path, *events: dict[str, Any], backend: str = "batch", world_size: int = 2) -> RunDirectory:
    """A run with this journal; events without a time are a second apart."""
    path.mkdir(parents=True)
    plan = {"name": path.parent.name, "run_id": path.name, "backend": backend, "world_size": world_size, "cluster": "c"}
    plan |= {"recipe": "small.py", "argv": {"overrides": []}}
    (path / "plan.json").write_text(json.dumps(plan))
    lines = [json.dumps({"time": BEGIN + number, **event}) for number, event in enumerate(events)]
    (path / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return RunDirectory(path)


def submitted(job: str = "12", nonce: str = "token-1") -> tuple[dict[str, Any], ...]:
    """The journal of a submission."""
    intent = {"event": "submit_intent", "token": nonce}
    return intent, {"event": "submitted", "backend": "batch", "job": job}


def iteration(number: int, *, of: int = 20, seconds: float = 0.5, **more: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    base = {"iteration": number, "train_iters": of, "loss": 10.0 - number, "seconds": seconds}
    return {**base, "time": BEGIN + 10 + number, **more}


def make_attempt(
    run: RunDirectory,
    number: int = 0,
    *,
    metrics: tuple[dict[str, Any], ...] = (),
    timeline: tuple[dict[str, Any], ...] = (),
    result: dict[str, Any] | None = None,
    nonce: str = "token-1",
    job_start: float | None = None,
    written: float = BEGIN - 300,
) -> Attempt:
    """An attempt of this submission with these lines and this verdict, its files written at `written`.

    That is before the run was started: the login node's clock is five minutes ahead.
    """
    attempt = run.attempt(number)
    attempt.logs.mkdir(parents=True)
    attempt.ranks.mkdir()
    for path, lines in ((attempt.metrics, metrics), (attempt.timeline, timeline)):
        if lines:
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if result is not None:
        (attempt.path / "result.json").write_text(json.dumps({"version": 1, "attempt": attempt.name, **result}))
    attempt.start.write_text(f"{nonce} 12 {'-' if job_start is None else int(job_start)}\n")
    for path in (*attempt.path.iterdir(), attempt.path):
        os.utime(path, (written, written))
    return attempt
