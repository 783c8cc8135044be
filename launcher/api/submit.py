"""Submitting a recipe as a batch job, and following it."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from launcher._util.errors import LauncherError
from launcher._util.shell import LocalShell, Shell
from launcher.api.prepare_plan import PreparedPlan, start_new
from launcher.api.progress import Progress
from launcher.api.resume import live_jobs, starting_alone
from launcher.api.run import Outcome
from launcher.backends import start
from launcher.backends.batch import queue_successors
from launcher.planning.model import Change
from launcher.rundir import RunDirectory
from launcher.slurm.submit import Submission

_TICK_S = 0.2
_ASK_S = 3.0
"""Between questions whether the job is over."""


@dataclass(frozen=True)
class SubmittedRun:
    """A run whose job is in Slurm's queue."""

    run: RunDirectory
    job: str
    cluster: str | None
    """Slurm's name of the cluster, where sbatch printed one."""
    name: str
    run_id: str
    changes: tuple[Change, ...] = ()
    """What a resume has changed."""
    successors: tuple[str, ...] = ()
    """Jobs that are queued behind it."""
    new: bool = True
    """False where an earlier `--once` with the same key has submitted it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for programs."""
        return {
            "job": self.job,
            "cluster": self.cluster,
            "name": self.name,
            "run_id": self.run_id,
            "run_dir": str(self.run.path),
            "successors": list(self.successors),
            "changes": [dataclasses.asdict(change) for change in self.changes],
            "new": self.new,
        }


def submit_new(prepared: PreparedPlan, progress: Progress) -> SubmittedRun:
    """Submit a plan as `submit_plan` does, with another run id where the one that was drawn is taken."""
    return start_new(prepared, lambda made: submit_plan(made, progress))


def submit_plan(
    prepared: PreparedPlan,
    progress: Progress,
    locks: tuple[int, ...] = (),
    *,
    again: RunDirectory | None = None,
) -> SubmittedRun:
    """Write the run directory of a plan for `submit` and submit its job, with those that are queued behind it.

    Where the resumed run has a job, only further ones are queued behind it. sbatch inherits `locks`, descriptors of
    locks that this process holds. `again` is the directory that an interrupted try of this very submission has made.
    Raises SlurmError, DiskError, RunExistsError, or ImageError for an image that was removed meanwhile. Where Slurm
    refused, a new run leaves nothing behind.
    """
    plan = prepared.plan
    for warning in plan.warnings:
        progress.warn(warning)
    for change in plan.changes:
        progress.info(f"changed: {change}")
    count = prepared.inputs.request.attempts or 1
    with starting_alone(prepared.resumed, behind=prepared.behind) as further:
        # sbatch holds the locks as well: where this process is killed, the next one waits for the end of sbatch.
        holding = LocalShell(keep=(*locks, *further))
        if prepared.behind and prepared.resumed is not None:
            first, *others = _queue(prepared, prepared.resumed, holding, live_jobs(prepared.resumed), count)
            return _submitted(prepared, prepared.resumed, first, others)
        started = start.submit_run(plan, prepared.inputs.host, prepared.resumed, holding, progress.warn, again=again)
        first = started.submission
        others = _queue(prepared, started.run, holding, (first.job,), count - 1)
    return _submitted(prepared, started.run, first, others)


def _submitted(
    prepared: PreparedPlan, run: RunDirectory, first: Submission, others: Sequence[Submission]
) -> SubmittedRun:
    plan = prepared.plan
    successors = tuple(each.job for each in others)
    return SubmittedRun(run, first.job, first.cluster, plan.name, run.path.name, plan.changes, successors)


def _queue(
    prepared: PreparedPlan, run: RunDirectory, shell: Shell, behind: tuple[str, ...], count: int
) -> list[Submission]:
    """Queue successors. An error names the jobs that are queued all the same."""
    queued = list[Submission]()
    try:
        for each in queue_successors(prepared.plan, prepared.inputs.host, run, shell, behind=behind, count=count):
            queued.append(each)
    except LauncherError as error:
        names = ", ".join((*behind, *(each.job for each in queued)))
        error.message = f"{error.message}; queued all the same: {names}"
        raise
    return queued


def follow_run(run: RunDirectory, *, tick: Callable[[], None], leave: Callable[[], bool]) -> Outcome | None:
    """Wait until the run is over; None if `leave` said before that the job is to be left alone.

    `tick` is called five times a second.
    """
    from launcher.backends.wait import summary
    from launcher.watch.status import status_of

    asked = 0.0
    while not leave():
        tick()
        if time.monotonic() - asked > _ASK_S:
            asked = time.monotonic()
            status = status_of([run], LocalShell())[0][0]
            if status.phase.over:
                break
        time.sleep(_TICK_S)
    else:
        return None
    outcome = summary(run, run.latest_attempt())
    if outcome["outcome"] == "unknown":
        outcome["reason"] = f"{status.phase.value}: {status.detail}"
    return Outcome(run, outcome, 0 if outcome["outcome"] == "finished" else 1)
