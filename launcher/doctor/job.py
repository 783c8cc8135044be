"""The node checks as a run: in this allocation, as a batch job, or on this machine, until the run has ended."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import LauncherError, SlurmError
from launcher._util.shell import Shell
from launcher.backends.batch import BatchJob
from launcher.backends.start import start_run, submit_run
from launcher.backends.wait import Interrupts
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.slurm.control import hostnames
from launcher.slurm.nodes import Node, read_nodes
from launcher.slurm.queue import Job

_POLL_INTERVAL_S = 0.2
_NODE_CHECK_INTERVAL_S = 3.0
"""Interval at which the state of the nodes is read while the job waits."""

_JOB_QUERY_INTERVAL_S = 5.0
"""Longest interval between queries to Slurm about the job."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DoctorRun:
    """A run of the node checks that has ended."""

    run: RunDirectory
    nodes: tuple[str, ...]
    """Its nodes in the order of ranks."""
    lost: tuple[Node, ...] = ()
    """Nodes that Slurm has taken out of service since the run was submitted."""
    why: str | None = None
    """Why the checks are incomplete; None if they are complete."""


def run_in_foreground(plan: Plan, host: HostContext, shell: Shell, counted: Interrupts, say: Say) -> DoctorRun:
    """Run the checks in this allocation, or as processes on this machine; Ctrl-C ends them. Raises as `start_run`."""
    before = _nodes(shell) if plan.backend.slurm_step else ()
    started = start_run(plan, host, None, shell, say)
    run = started.run
    reporter = _ProgressReporter(run, plan, say)
    ended = False
    while (status := started.poll()) is None:
        reporter.report()
        if counted.count and not ended:
            ended = True
            started.cancel()
        time.sleep(_POLL_INTERVAL_S)
    started.finish(status)
    names = _allocated(host.environ, plan, shell) if plan.backend.slurm_step else (host.hostname,)
    lost = newly_lost(before, _nodes(shell)) if plan.backend.slurm_step else ()
    why = "ended by Ctrl-C" if ended else None if status in (0, 1) else _last_words(run)
    return DoctorRun(run, names, lost, why)


def run_as_job(plan: Plan, host: HostContext, shell: Shell, counted: Interrupts, say: Say) -> DoctorRun:
    """Submit the checks as a batch job and wait for its end; Ctrl-C cancels it. Raises as `submit_run`."""
    before = _nodes(shell)
    started = submit_run(plan, host, None, shell, say)
    started.poller.longest_s = _JOB_QUERY_INTERVAL_S
    run = started.run
    say(f"job {started.submission.job}: {run.path}")
    reporter = _ProgressReporter(run, plan, say)
    why, checked_at = None, time.monotonic()
    while why is None and started.poll() is None:
        job = started.job
        reporter.report(job)
        if counted.count:
            why = "ended by Ctrl-C"
        elif job is not None and job.state.waiting and time.monotonic() - checked_at > _NODE_CHECK_INTERVAL_S:
            checked_at = time.monotonic()
            why = why_not_starting(job, newly_lost(before, _nodes(shell)))
        time.sleep(_POLL_INTERVAL_S)
    if why is not None:
        _cancel(started, say)
    elif started.outcome is None:
        why = describe_end(started.job, _last_words(run))
    names = _expanded(started.job.nodes if started.job else None, plan, shell)
    return DoctorRun(run, names, newly_lost(before, _nodes(shell)), why)


def why_not_starting(job: Job, lost: tuple[Node, ...]) -> str | None:
    """Return why a waiting job will not start by itself; None while it may start.

    Slurm drains a node whose prolog fails and requeues the job, usually in a held state. Source:
    https://slurm.schedmd.com/prolog_epilog.html.
    """
    if "held" in (job.reason or "").lower():
        return f"the job did not start and is held ({job.reason})"
    failed = [node for node in lost if "prolog" in (node.reason or "").lower()]
    if failed:
        return f"the job did not start on {', '.join(node.name for node in failed)}: {failed[0].reason}"
    return None


def newly_lost(before: tuple[Node, ...], now: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes that were usable before and no longer are."""
    usable = {node.name for node in before if node.usable}
    return tuple(node for node in now if node.name in usable and not node.usable)


def describe_end(job: Job | None, words: str) -> str:
    """Describe how a job without a result ended; `words` is the last line of its log."""
    state = f"the job is {job.state.value}{f' ({job.reason})' if job.reason else ''}" if job else "the job is gone"
    return f"{state}; {words}" if words else state


@dataclass
class _ProgressReporter:
    """Reports the progress of the run, each time that it changes."""

    run: RunDirectory
    plan: Plan
    say: Say
    _printed: str = ""
    _last: float = 0.0

    def report(self, job: Job | None = None) -> None:
        """Report a change of progress; checks at most once a second."""
        if time.monotonic() - self._last < 1.0:
            return
        self._last = time.monotonic()
        words = self._words(job)
        if words and words != self._printed:
            self._printed = words
            self.say(words)

    def _words(self, job: Job | None) -> str:
        attempt = self.run.latest_attempt()
        if attempt is None:
            return f"waiting: {job.reason or job.state.value.lower()}" if job and job.state.waiting else ""
        done = len(list(attempt.doctor.glob("[0-9]*.json")))
        return f"{done} of {self.plan.layout.world_size} ranks have reported" if done else "the job runs"


def _nodes(shell: Shell) -> tuple[Node, ...]:
    """Return the nodes of the cluster; none where Slurm does not answer."""
    try:
        return read_nodes(shell)
    except SlurmError:
        return ()


def _allocated(environ: Mapping[str, str], plan: Plan, shell: Shell) -> tuple[str, ...]:
    return _expanded(environ.get("SLURM_JOB_NODELIST"), plan, shell)


def _expanded(nodelist: str | None, plan: Plan, shell: Shell) -> tuple[str, ...]:
    """Return the nodes of the run in the order of its ranks, as sbatch.sh uses them."""
    if not nodelist:
        return ()
    try:
        return hostnames(nodelist, shell)[: plan.layout.nodes]
    except SlurmError:
        return ()


def _cancel(started: BatchJob, say: Say) -> None:
    try:
        started.cancel()
    except LauncherError as error:
        job = started.submission.job
        say(f"job {job} could not be cancelled: {error.message}; cancel it with: scancel {job}")


def _last_words(run: RunDirectory) -> str:
    """Return the last line in the logs of sbatch.sh and srun."""
    attempt = run.latest_attempt()
    logs = [run.sbatch_log, *([attempt.srun_log] if attempt else [])]
    return next((words for log in logs if (words := last_line(log))), "")


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank; an empty string if there is none."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
