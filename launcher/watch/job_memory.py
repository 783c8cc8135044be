"""What Slurm has said of a run's jobs that have ended for good, kept in the run, so that it is not asked again."""

import dataclasses
import json
from typing import Any, TypedDict

from launcher.contract import files
from launcher.contract.paths import RunPaths
from launcher.contract.validation import problems
from launcher.slurm.queue import Job, State
from launcher.watch.run_state import RunState, Start


class _RememberedJob(TypedDict):
    """One job, by the token of its submission."""

    id: str
    state: str
    reason: str | None
    submitted: float | None
    start: float | None
    end: float | None
    nodes: str | None
    exit_status: int | None
    source: str
    origin: str | None
    cluster: str | None
    attempts: int
    """How many attempts the run had then; another one means that the job has begun again."""


def recall_job(run_state: RunState) -> tuple[Job, str | None] | None:
    """Return the job of the run's start and its cluster, if it has ended for good; None where Slurm has to be asked."""
    start = run_state.start
    if start is None or start.token is None or start.job is None:
        return None
    kept = _read(RunPaths(run_state.path)).get(start.token)
    if kept is None or any(problems(kept, _RememberedJob)) or kept["state"] not in set(State):
        return None
    values = dict(kept)
    cluster = values.pop("cluster")
    if values.pop("attempts") != run_state.attempts or kept["id"] != start.job:
        return None
    return Job(**{**values, "state": State(kept["state"]), "terminal": True}), cluster


def remember_job(run: RunPaths, start: Start, attempts: int, job: Job, cluster: str | None) -> None:
    """Keep what Slurm has said of a job that has ended for good.

    A file that is cut short is read as none, so it need not be written at once or be on the disk.
    """
    if start.token is None or job.id != start.job:
        return
    values = {name: value for name, value in dataclasses.asdict(job).items() if name in _RememberedJob.__annotations__}
    kept = {**_read(run), start.token: {**values, "cluster": cluster, "attempts": attempts}}
    try:
        run.ended_jobs.write_text(json.dumps({"version": 1, "jobs": kept}) + "\n")
    except OSError:
        return  # another user's run, or a full disk: Slurm is asked again


def _read(run: RunPaths) -> dict[str, Any]:
    found = (files.read_object(run.ended_jobs) or {}).get("jobs")
    return found if isinstance(found, dict) else {}
