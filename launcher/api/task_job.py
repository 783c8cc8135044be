"""Work in a job on a compute node, shown here as if it happened here. An interrupt cancels the job."""

import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.api.progress import Progress
    from launcher.backends.stack_program import StackProgram
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


def perform_program(
    program: "StackProgram",
    *,
    python: str | None,
    job: TaskJobOptions | None,
    cluster: "Cluster",
    name: str,
    tasks: Path,
    progress: "Progress",
) -> dict[str, Any]:
    """Run a program of the training stack and return its result, in a job where there is one, else on this machine.

    `python` is the interpreter with the training stack, None for the profile's or this one; `tasks` is where the job's
    folder is made. Raises RequestError for a wrong request, OutsideError where the program failed, SlurmError.
    """
    from launcher._util.shell import LocalShell
    from launcher.backends import stack_program

    python = python or cluster.python
    if job is None:
        return stack_program.call(program, python or sys.executable, LocalShell(), progress)
    found: dict[str, Any] = perform_in_job(
        stack_program.perform,
        (program, python),
        job=job,
        cluster=cluster,
        name=name,
        tasks=tasks,
        progress=progress,
    )
    return found


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

    folder = _folder(tasks)
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


def perform_in_array(
    function: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    *,
    job: TaskJobOptions,
    cluster: "Cluster",
    name: str,
    tasks: Path,
    progress: "Progress",
    tick: Callable[[], None],
) -> list[Any]:
    """Submit an array with a task for each of `arguments`, and return what each returned.

    The function is called as by `perform_in_job`, with a file of events of its own. `tick` is called while tasks run.
    A task that ended without a result, as one that was killed or whose program was, has None. Raises the first error
    that was raised on a node once all tasks have ended, or SlurmError.
    """
    from launcher._util.errors import KilledProgramError
    from launcher._util.shell import LocalShell
    from launcher.backends.task import outcome, parameters, submit_tasks
    from launcher.images.build.remote import RemoteFailure
    from launcher.slurm.control import cancel
    from launcher.slurm.poller import Poller

    folder = _folder(tasks)
    calls = [(*each, folder / f"events-{number}.jsonl") for number, each in enumerate(arguments)]
    started = submit_tasks(
        function,
        calls,
        folder=folder,
        parameters=parameters(cluster, name=name, cpus=job.cpus, directives=job.directives),
        python=cluster.launcher_python,
    )
    ids = [task.job for task in started]
    progress.info(f"job {ids[0].partition('_')[0]} on {cluster.name}, {len(ids)} task(s): {folder}")
    try:
        _wait_for_all(started, progress, Poller(tuple(ids), LocalShell()), tick)
    except BaseException:
        cancel(ids, LocalShell())
        progress.info(f"cancelled job {ids[0].partition('_')[0]}")
        raise
    results = [outcome(task) if task.result.exists() else None for task in started]
    for number, result in enumerate(results):
        # Slurm may kill a task's program before the task itself, which then still says so.
        if isinstance(result, RemoteFailure) and result.kind == KilledProgramError.__name__:
            progress.warn(f"job {started[number].job} ended without a result: {result.message}")
            results[number] = None
    failed = next((result for result in results if isinstance(result, RemoteFailure)), None)
    if failed is not None:
        raise failed.error()
    return results


def _wait_for_all(
    started: "Sequence[TaskJob]", progress: "Progress", poller: "Poller", tick: Callable[[], None]
) -> None:
    """Wait until each task has a result, or has ended without one for a while. Slurm's silence is waited out."""
    from launcher.watch.follower import queued

    ended_at: dict[str, float] = {}
    while True:
        answer = poller.poll()
        left = [task for task in started if not task.result.exists()]
        tick()
        waiting = []
        for task in left:
            state = answer.jobs.get(task.job) if answer else None
            if state is not None and state.state.waiting:
                waiting.append(queued(state, time.time()))
            if state is not None and state.terminal:
                ended_at.setdefault(task.job, time.monotonic())
        if len(waiting) == len(started):
            progress.stage(waiting[0])
        now = time.monotonic()
        lost = [task for task in left if now - ended_at.get(task.job, now) > _LATE_S]
        if len(lost) == len(left):
            for task in lost:
                progress.warn(f"job {task.job} ended without a result: {task.log}")
            return
        time.sleep(_TICK_S)


def _folder(tasks: Path) -> Path:
    """Return a new name for a folder of one submission."""
    return tasks / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(6)}"


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
