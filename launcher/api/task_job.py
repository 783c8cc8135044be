"""Work in a job on a compute node, shown here as if it happened here. An interrupt cancels the job."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.api.progress import Progress
    from launcher.backends.task import TaskJob
    from launcher.config.cluster import Cluster
    from launcher.slurm.poller import Poller

_TICK_S = 0.5
_LATE_S = 20.0
"""After the job's end, until its result has to be visible here: shared file systems cache directories."""


@dataclass(frozen=True)
class TaskJobOptions:
    """The job that work is done in."""

    cluster: str
    """The cluster profile's name."""
    cpus: int = 8
    directives: Mapping[str, bool | int | str] = field(default_factory=dict)
    """Further options of sbatch, stronger than the profile's: time, partition, account and others."""


def perform_in_job(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    job: TaskJobOptions,
    cluster: "Cluster",
    name: str,
    tasks: Path,
    progress: "Progress",
) -> Any:
    """Submit `function(*arguments, events)`, watch the job and return the result; `tasks` is where its folder is made.

    The function writes what happens to the file `events` (contract/events.py)
    and returns a RemoteFailure where it raises.
    Raises the LauncherError that was raised on the node, or SlurmError.
    """
    from launcher._util.shell import LocalShell
    from launcher.backends.task import outcome, parameters, submit_task
    from launcher.images.build.remote import RemoteFailure
    from launcher.slurm.control import cancel
    from launcher.slurm.poller import Poller

    folder = tasks / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(6)}"
    events = folder / "events.jsonl"
    task = submit_task(
        function,
        (*arguments, events),
        folder=folder,
        parameters=parameters(cluster, name=name, cpus=job.cpus, directives=job.directives),
        python=cluster.launcher_python,
    )
    progress.info(f"job {task.job} on {cluster.name}: {task.log}")
    try:
        _watch(task, events, progress, Poller((task.job,), LocalShell()))
    except BaseException:
        cancel([task.job], LocalShell())
        progress.info(f"cancelled job {task.job}")
        raise
    result = outcome(task)
    if isinstance(result, RemoteFailure):
        raise result.error()
    return result


def _watch(task: "TaskJob", events: Path, progress: "Progress", poller: "Poller") -> None:
    """Show the events until the result is there. Raises SlurmError if the job ends without one."""
    from launcher._util.errors import SlurmError
    from launcher.contract.events import EventReader
    from launcher.watch.follower import queued
    from launcher.watch.tail import FileTail, last_lines

    tail, reader = FileTail(events), EventReader(progress)
    ended_at: float | None = None
    while True:
        there = task.result.exists()
        for line in tail.read():
            reader.take(line)
        if there:
            return
        answer = poller.poll()
        job = answer.jobs.get(task.job) if answer else None
        if job is not None and job.state.waiting:
            progress.stage(queued(job, time.time()))
        if job is not None and job.terminal:
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at > _LATE_S:
                last = " ".join(last_lines(task.log)[-1:]) or "its log is empty"
                raise SlurmError(
                    f"job {task.job} ended as {job.state.value} without a result: {last}", where=str(task.log)
                )
        time.sleep(_TICK_S)
