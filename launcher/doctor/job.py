"""The node checks as a run: in this allocation, as a batch job, or on this machine; waited for until it is over."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import LauncherError, SlurmError
from launcher._util.shell import Shell
from launcher.backends import foreground
from launcher.backends.batch import submit_run
from launcher.backends.wait import Interrupts
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.slurm.control import cancel, hostnames
from launcher.slurm.nodes import Node, read_nodes
from launcher.slurm.poller import Poller
from launcher.slurm.queue import Job

_TICK_S = 0.2
_LOOK_S = 3.0
"""Between looks at the nodes while the job waits."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DoctorRun:
    """What came of the run: its nodes in the order of ranks, and why it has no result where it has none."""

    run: RunDirectory
    nodes: tuple[str, ...]
    lost: tuple[Node, ...] = ()
    """Nodes that Slurm has taken away since the run was submitted."""
    why: str | None = None
    interrupted: bool = False


def here(plan: Plan, host: HostContext, shell: Shell, counted: Interrupts, say: Say) -> DoctorRun:
    """Run it in this allocation, or as processes of this machine. Raises as `start.here`."""
    before = () if plan.mode == "local" else _nodes(shell)
    step, run = foreground.here(plan, host, None, say)
    watched = _Watched(run, plan, say)
    ended = False
    while (status := step.poll()) is None:
        watched.look()
        if counted.count and not ended:
            ended = True
            step.end()
        time.sleep(_TICK_S)
    foreground.finish(step, status)
    names = (host.hostname,) if plan.mode == "local" else _allocated(host.environ, plan, shell)
    lost = () if plan.mode == "local" else newly_lost(before, _nodes(shell))
    why = "ended by Ctrl-C" if ended else None if status in (0, 1) else _last_words(run)
    return DoctorRun(run, names, lost, why, ended)


def batch(plan: Plan, host: HostContext, shell: Shell, counted: Interrupts, say: Say) -> DoctorRun:
    """Submit it and wait for its end; Ctrl-C cancels it. Raises as `submit_run`."""
    before = _nodes(shell)
    run, submission = submit_run(plan, host, None, shell, say)
    say(f"job {submission.job}: {run.path}")
    watched = _Watched(run, plan, say)
    poller = Poller((submission.job,), shell, longest_s=5.0)
    job, why, looked = None, None, time.monotonic()
    while why is None:
        answer = poller.poll()
        job = answer.jobs.get(submission.job, job) if answer else job
        silent = poller.unknown_since is not None
        if (job is not None and job.terminal) or (silent and _judged(run)):
            break
        watched.look(job)
        if counted.count:
            why = "ended by Ctrl-C"
        elif job is not None and job.state.waiting and time.monotonic() - looked > _LOOK_S:
            looked = time.monotonic()
            why = will_not_start(job, newly_lost(before, _nodes(shell)))
        time.sleep(_TICK_S)
    if why is not None:
        _cancel(submission.job, shell, say)
    if why is None and not _judged(run):
        why = ending(job, _last_words(run))
    names = _expanded(job.nodes if job else None, plan, shell)
    return DoctorRun(run, names, newly_lost(before, _nodes(shell)), why, bool(counted.count))


def _judged(run: RunDirectory) -> bool:
    attempt = run.latest_attempt()
    return attempt is not None and attempt.result is not None


def will_not_start(job: Job, lost: tuple[Node, ...]) -> str | None:
    """Why a waiting job is not waited for any longer; None while it may start.

    A node whose prolog fails is drained, and its job goes back to the queue, mostly held
    (https://slurm.schedmd.com/prolog_epilog.html).
    """
    if "held" in (job.reason or "").lower():
        return f"the job did not start and is held ({job.reason})"
    failed = [node for node in lost if "prolog" in (node.reason or "").lower()]
    if failed:
        return f"the job did not start on {', '.join(node.name for node in failed)}: {failed[0].reason}"
    return None


def newly_lost(before: tuple[Node, ...], now: tuple[Node, ...]) -> tuple[Node, ...]:
    """Nodes that ran jobs before and no longer do."""
    usable = {node.name for node in before if node.usable}
    return tuple(node for node in now if node.name in usable and not node.usable)


def ending(job: Job | None, words: str) -> str:
    """How a job without a result ended."""
    state = f"the job is {job.state.value}{f' ({job.reason})' if job.reason else ''}" if job else "the job is gone"
    return f"{state}; {words}" if words else state


@dataclass
class _Watched:
    """Says what the run is at, when that changes."""

    run: RunDirectory
    plan: Plan
    say: Say
    _told: str = ""
    _last: float = 0.0

    def look(self, job: Job | None = None) -> None:
        """Look once a second."""
        if time.monotonic() - self._last < 1.0:
            return
        self._last = time.monotonic()
        words = self._words(job)
        if words and words != self._told:
            self._told = words
            self.say(words)

    def _words(self, job: Job | None) -> str:
        attempt = self.run.latest_attempt()
        if attempt is None:
            return f"waiting: {job.reason or job.state.value.lower()}" if job and job.state.waiting else ""
        done = len(list((attempt.path / "doctor").glob("[0-9]*.json")))
        return f"{done} of {self.plan.geometry.world_size} ranks have reported" if done else "the job runs"


def _nodes(shell: Shell) -> tuple[Node, ...]:
    try:
        return read_nodes(shell)
    except SlurmError:
        return ()


def _allocated(environ: Mapping[str, str], plan: Plan, shell: Shell) -> tuple[str, ...]:
    return _expanded(environ.get("SLURM_JOB_NODELIST"), plan, shell)


def _expanded(nodelist: str | None, plan: Plan, shell: Shell) -> tuple[str, ...]:
    """The run's nodes in the order of its ranks, as sbatch.sh takes them."""
    if not nodelist:
        return ()
    try:
        return hostnames(nodelist, shell)[: plan.geometry.nodes]
    except SlurmError:
        return ()


def _cancel(job: str, shell: Shell, say: Say) -> None:
    try:
        cancel((job,), shell)
    except LauncherError as error:
        say(f"job {job} could not be cancelled: {error.message}; scancel {job} does it")


def _last_words(run: RunDirectory) -> str:
    """The last line that the run's scripts have said."""
    attempt = run.latest_attempt()
    logs = [run.path / "sbatch.log", *([attempt.logs / "srun.log"] if attempt else [])]
    return next((words for log in logs if (words := last_line(log))), "")


def last_line(log: Path) -> str:
    """The last line of a log; nothing where there is none."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
