"""What the verdict step writes about the next attempt."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.files import JsonLines, write_json
from launcher.contract.paths import RunPaths
from launcher.job.next_attempt import plan_next

POLICY = {
    "without_progress": 3,
    "backoff_s": 0,
    "strikes": 2,
    "strike_hours": 24,
    "excluded_percent": 10,
    "exclude": None,
}


@pytest.mark.parametrize("stated", [False, True], ids=["the recipe", "an override"])
def test_a_diverged_run_sets_aside_where_it_has_saved(tmp_path: Path, stated: bool) -> None:
    """Where checkpoints go is known from the ranks: a recipe may say it as well as an override."""
    run, saved = RunPaths(tmp_path / "run"), tmp_path / "elsewhere"
    attempt = run.attempt_paths("000")
    attempt.path.mkdir(parents=True)
    given: list[dict[str, Any]] = [{"key": "checkpoint.save", "text": "x", "value": str(saved)}] if stated else []
    write_json(run.argv_file, {"options": {"keep_going": POLICY}, "overrides": given})
    attempt.start.write_text("launcher:run:a 12 1 0\n")
    timeline = JsonLines(attempt.timeline)
    for step in (5, 10, 15):
        (saved / f"iter_{step:07d}").mkdir(parents=True)
        where = {} if stated else {"directory": str(saved)}
        timeline.append({"time": 1.0, "rank": 0, "event": "save", "seconds": 1.0, "iteration": step, **where})
    decided = plan_next(run, attempt, {"outcome": "diverged", "diverged_at": 8, "ended": 1.0}, 1)
    assert decided is not None
    assert (decided["action"], decided["ckpt_step"]) == ("requeue", 5)
    markers = {path.stem: json.loads(path.read_text())["directory"] for path in run.set_aside_directory.iterdir()}
    assert markers == {name: str(saved / name) for name in ("iter_0000010", "iter_0000015")}
