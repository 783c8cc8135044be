"""Evaluating what a run has learned by tasks of lm-evaluation-harness, here or in a job behind the run's own."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher._util.user_paths import is_directory, user_path
from launcher.api.locate import find_cluster, find_run
from launcher.api.progress import Progress
from launcher.api.task_job import TaskJobOptions, perform_in_job
from launcher.backends import evaluation
from launcher.contract.evaluation import EvaluationRequest
from launcher.rundir import RunDirectory


def evaluate(
    name: str,
    request: EvaluationRequest,
    progress: Progress,
    *,
    iteration: int | None = None,
    python: str | None = None,
    job: TaskJobOptions | None = None,
) -> dict[str, Any]:
    """Evaluate a run and return the record, with the `file` of the run that holds it.

    The request's paths are relative to the current directory; an empty `model` is the run's own export of `iteration`,
    None for the newest whole checkpoint. A job waits for the end of the run's. Raises RequestError for what cannot be
    evaluated, CommandError where a program failed, SlurmError.
    """
    cluster, host = find_cluster(job.cluster if job else None)
    run = find_run(name)
    request = replace(
        request,
        model=_directory(request.model, host.directory, "--model") if request.model else "",
        include_path=(
            _directory(request.include_path, host.directory, "--include-path") if request.include_path else None
        ),
    )
    python = python or cluster.python
    if job is None:
        return evaluation.evaluate(run.path, request, iteration, python or sys.executable, LocalShell(), progress)
    found: dict[str, Any] = perform_in_job(
        evaluation.perform,
        (run.path, request, iteration, python),
        job=_behind(run, job, progress),
        cluster=cluster,
        name="evaluate",
        tasks=run.path / ".launcher-tasks",
        progress=progress,
    )
    return found


def _behind(run: RunDirectory, job: TaskJobOptions, progress: Progress) -> TaskJobOptions:
    """Return the job with a dependency on the run's own, where that has not ended."""
    from launcher.watch.status import status_of

    (status,), _ = status_of([run], LocalShell())
    if status.phase.over or status.job is None or "dependency" in job.directives:
        return job
    if status.job_cluster is not None:
        raise RequestError(
            f"the run's job {status.job} is one of the cluster {status.job_cluster}, and no job here can wait for it",
            where=str(run.path),
            hint="Evaluate the run when it has ended, or say what to wait for: --sbatch dependency=LIST.",
        )
    progress.info(f"it waits for the end of the run's job {status.job}")
    return replace(job, directives={**job.directives, "dependency": f"afterany:{status.job}"})


def _directory(text: str, here: Path, option: str) -> str:
    path = user_path(text, here, where=option)
    if not is_directory(path):
        raise RequestError("there is no such directory", where=f"{option} {text}")
    return str(path.resolve())
