"""`--on CLUSTER`: the same work in a job, shown here as if it happened here. Ctrl-C cancels the job."""

import argparse
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.completion import complete
from launcher.cli.output import say

if TYPE_CHECKING:
    from launcher.backends.task import TaskJob
    from launcher.config.cluster import Cluster
    from launcher.images.build.report import Report
    from launcher.slurm.poller import Poller

_TICK_S = 0.5
_LATE_S = 20.0
"""After the job's end, until its result has to be visible here: shared file systems cache directories."""


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add --on and the options of its job."""
    job = parser.add_argument_group("in a job")
    add = job.add_argument
    complete(add("--on", metavar="CLUSTER", help="do it in a job on a compute node of this cluster"), "clusters")
    add("--cpus", metavar="N", type=int, default=8, help="CPUs of that job (default: 8)")
    add("--time", metavar="T", help="its time limit in Slurm's notation (default: 4 hours)")
    add("--partition", metavar="NAME", help="its partition (default: the profile's)")
    add("--account", metavar="NAME", help="its account (default: the profile's)")
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="a further option of sbatch; repeatable")


def perform_on(
    parsed: argparse.Namespace,
    cluster: "Cluster",
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    name: str,
    tasks: Path,
    report: "Report",
) -> Any:
    """Submit `function(*arguments, events)`, watch, return its result; `tasks` is where its folder is made.

    The function writes what happens to the file `events` (remote.EventFile)
    and returns a RemoteFailure where it raises.
    Raises the LauncherError that was raised on the node, or SlurmError.
    """
    from launcher._util.shell import LocalShell
    from launcher.backends.task import outcome, parameters, submit_task
    from launcher.images.build.remote import RemoteFailure
    from launcher.slurm.control import cancel
    from launcher.slurm.poller import Poller

    folder = tasks / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    events = folder / "events.jsonl"
    task = submit_task(
        function,
        (*arguments, events),
        folder=folder,
        parameters=parameters(cluster, name=name, cpus=parsed.cpus, directives=_directives(parsed)),
        python=cluster.launcher_python,
    )
    say(f"job {task.job} on {cluster.name}: {task.log}")
    try:
        _watch(task, events, report, Poller((task.job,), LocalShell()))
    except BaseException:
        cancel([task.job], LocalShell())
        say(f"cancelled job {task.job}")
        raise
    result = outcome(task)
    if isinstance(result, RemoteFailure):
        raise result.error()
    return result


def _watch(task: "TaskJob", events: Path, report: "Report", poller: "Poller") -> None:
    """Show the events until the result is there. Raises SlurmError if the job ends without one."""
    from launcher._util.errors import SlurmError
    from launcher.images.build.remote import replay
    from launcher.watch.follower import queued
    from launcher.watch.tail import FileTail, last_lines

    tail = FileTail(events)
    ended_at: float | None = None
    while True:
        there = task.result.exists()
        for line in tail.read():
            replay(json.loads(line), report)
        if there:
            return
        answer = poller.poll()
        job = answer.jobs.get(task.job) if answer else None
        if job is not None and job.state.waiting:
            report.stage(queued(job, time.time()))
        if job is not None and job.terminal:
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at > _LATE_S:
                last = " ".join(last_lines(task.log)[-1:]) or "its log is empty"
                raise SlurmError(
                    f"job {task.job} ended as {job.state.value} without a result: {last}", where=str(task.log)
                )
        time.sleep(_TICK_S)


def _directives(parsed: argparse.Namespace) -> dict[str, bool | int | str]:
    found: dict[str, bool | int | str] = {}
    for key in ("time", "partition", "account"):
        if getattr(parsed, key) is not None:
            found[key] = getattr(parsed, key)
    for text in parsed.sbatch:
        key, given, value = text.lstrip("-").partition("=")
        found[key] = value if given else True
    return found
