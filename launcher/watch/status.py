"""How runs are doing: a pure function of what their directories say and what Slurm answers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from launcher._util.errors import SlurmError
from launcher._util.shell import Shell
from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer, Job, State, ask_jobs
from launcher.slurm.submit import find_submission
from launcher.watch.progress_state import describe
from launcher.watch.run_state import RunFacts, Start, read

_FAR_S = 300 * 24 * 3600.0
"""Slurm expects a job behind one without time limit in a year: no estimate at all."""


class Phase(StrEnum):
    """What a run is doing, in one word."""

    PREPARED = "prepared"
    REFUSED = "refused"
    UNSUBMITTED = "unsubmitted"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self not in _GOING_ON

    @property
    def good(self) -> bool:
        """Whether it has come to its end as it should."""
        return self is Phase.FINISHED


_GOING_ON = {Phase.QUEUED, Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.SUSPENDED, Phase.UNKNOWN}


@dataclass(frozen=True)
class RunStatus:
    """How one run is doing. Times in seconds since the epoch, durations in seconds."""

    facts: RunFacts
    phase: Phase
    detail: str = ""
    """What it waits for, how far it is, or what came of it, for people."""
    job: str | None = None
    job_state: str | None = None
    reason: str | None = None
    """Why the job waits, in Slurm's words."""
    expected_start: float | None = None
    unknown_since: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The status for programs."""
        facts, progress, result = self.facts, self.facts.progress, self.facts.result or {}
        return {
            "run_dir": str(facts.path),
            "name": facts.name,
            "run_id": facts.run_id,
            "mode": facts.mode,
            "cluster": facts.cluster,
            "recipe": facts.recipe,
            "world_size": facts.world_size,
            "phase": self.phase.value,
            "over": self.phase.over,
            "detail": self.detail,
            "job": self.job,
            "job_state": self.job_state,
            "reason": self.reason,
            "expected_start": self.expected_start,
            "unknown_since": self.unknown_since,
            "attempt": facts.attempt,
            "attempts": facts.attempts,
            "iteration": result.get("iteration", progress.iteration),
            "train_iters": result.get("train_iters") or progress.train_iters,
            "loss": result.get("loss", progress.loss),
            "seconds_per_iteration": result.get("seconds_per_iteration") or progress.seconds_per_iteration,
            "tflops_per_gpu": progress.tflops_per_gpu,
            "seconds_left": None if self.phase.over else progress.seconds_left,
            "last_sign": progress.time,
            "outcome": result.get("outcome"),
            "first_failing_rank": result.get("first_failing_rank"),
            "network": facts.network,
        }


def status_of(
    runs: Sequence[RunDirectory], shell: Shell, *, clock: Callable[[], float] = time.time
) -> tuple[list[RunStatus], Answer]:
    """The statuses of all these runs, with one question to Slurm; raises for no run's sake but DiskError."""
    facts = [read(run) for run in runs]
    found = [_job_of(each, shell) for each in facts]
    # A run of this machine that has its verdict is not Slurm's to judge; a batch job may have gone back to the queue.
    asked = [
        job for each, (job, _) in zip(facts, found, strict=True) if job and (not each.result or each.mode == "sbatch")
    ]
    answer = ask_jobs(asked, shell, clock=clock) if asked else Answer({}, clock())
    statuses = []
    for run, each, (job, silence) in zip(runs, facts, found, strict=True):
        said = answer if silence is None else replace(answer, unreachable=silence)
        known = answer.jobs.get(job or "")
        statuses.append(judge(_ended_meanwhile(run, each, known), known, said))
    return statuses, answer


def _ended_meanwhile(run: RunDirectory, facts: RunFacts, job: Job | None) -> RunFacts:
    """The facts, read again where Slurm says that the job is over and they hold no verdict yet.

    They were read before Slurm was asked; a job writes its verdict before it ends, so if there is one, it is there now.
    """
    if facts.result or job is None or not job.terminal:
        return facts
    again = read(run)
    return again if again.start == facts.start else facts


def judge(facts: RunFacts, job: Job | None, answer: Answer) -> RunStatus:
    """What a run's own facts and Slurm's answer mean together."""
    start = facts.start
    if start is None:
        return RunStatus(facts, Phase.PREPARED, "nothing was started")
    if start.how == "submit_refused":
        return RunStatus(facts, Phase.REFUSED, start.error or "Slurm refused the job")
    if start.how == "launched":
        return _launched(facts, start, job, answer)
    if job is None:
        if facts.attempt:
            return _going_on(facts, RunStatus(facts, Phase.UNKNOWN))
        if answer.unreachable:
            return RunStatus(facts, Phase.UNKNOWN, _silence(facts, answer), unknown_since=answer.asked_at)
        return RunStatus(facts, Phase.UNSUBMITTED, "the submission was cut off, and Slurm knows no such job")
    return _submitted(facts, job, answer)


def _submitted(facts: RunFacts, job: Job, answer: Answer) -> RunStatus:
    base = RunStatus(facts, Phase.UNKNOWN, job=job.id, job_state=job.state.value, reason=job.reason)
    if job.state is State.UNKNOWN:
        if facts.result:
            return _over(facts, base)
        return _with(base, Phase.UNKNOWN, _silence(facts, answer), unknown_since=answer.asked_at)
    if job.state.waiting:
        return _queued(base, job, answer.asked_at)
    if job.terminal:
        return _over(facts, base)
    # A requeued job that has just started again: the newest attempt is the one before.
    if facts.attempt is None or (job.start is not None and facts.touched < job.start):
        return _with(base, Phase.STARTING, f"on {job.nodes}" if job.nodes else "")
    if job.state in (State.SUSPENDED, State.STOPPED):
        return _with(base, Phase.SUSPENDED, describe(facts.progress))
    if facts.result:
        return _over(facts, base)
    return _going_on(facts, base)


def _launched(facts: RunFacts, start: Start, job: Job | None, answer: Answer) -> RunStatus:
    base = RunStatus(facts, Phase.UNKNOWN, job=start.job, job_state=job.state.value if job else None)
    if facts.result:
        return _over(facts, base)
    if start.alive or (start.alive is None and job is not None and job.state is State.RUNNING):
        return _going_on(facts, base)
    if start.alive is None and not (job is not None and job.terminal):
        return _with(base, Phase.UNKNOWN, f"it was started on {start.host}; ask there", unknown_since=answer.asked_at)
    if facts.cancelled:
        return _with(base, Phase.CANCELLED, _reached(facts))
    return _with(base, Phase.LOST, f"the launcher that ran it is gone and left no verdict{_reached(facts, '; ')}")


def _queued(base: RunStatus, job: Job, now: float) -> RunStatus:
    expected = job.start if job.start is not None and 0 <= job.start - now < _FAR_S else None
    again = "again, " if base.facts.attempts else ""
    words = f"{again}{job.reason or 'waiting'}"
    return _with(base, Phase.QUEUED, words, expected_start=expected)


def _going_on(facts: RunFacts, base: RunStatus) -> RunStatus:
    words = describe(facts.progress)
    if facts.stopping:
        return _with(base, Phase.STOPPING, f"asked to save and stop | {words}")
    return _with(base, Phase.STARTING if facts.progress.iteration is None else Phase.RUNNING, words)


def _over(facts: RunFacts, base: RunStatus) -> RunStatus:
    """It has ended: by the verdict, and where there is none by Slurm's word."""
    state = State(base.job_state) if base.job_state else None
    if facts.result is None:
        return _without_verdict(facts, base, state)
    outcome = str(facts.result.get("outcome"))
    reason = facts.result.get("reason")
    ended_by = {State.CANCELLED: "cancelled", State.TIMEOUT: "the job's time limit"}.get(state) if state else None
    words = " | ".join(each for each in (ended_by, str(reason) if reason else None, _reached(facts) or None) if each)
    if outcome == "failed" and (state is State.CANCELLED or facts.cancelled):
        return _with(base, Phase.CANCELLED, words)
    phase = Phase(outcome) if outcome in ("finished", "stopped", "failed") else Phase.UNKNOWN
    return _with(base, phase, words)


def _without_verdict(facts: RunFacts, base: RunStatus, state: State | None) -> RunStatus:
    reached = _reached(facts, "; ")
    if state is State.CANCELLED:
        return _with(base, Phase.CANCELLED, f"the job was cancelled{reached}")
    if state is State.FORGOTTEN or state is None:
        return _with(base, Phase.LOST, f"Slurm no longer knows the job, and there is no verdict{reached}")
    words = {
        State.TIMEOUT: "the job's time limit",
        State.NODE_FAIL: "a node failed",
        State.PREEMPTED: "preempted",
        State.OUT_OF_MEMORY: "out of memory on the host",
        State.COMPLETED: "the job ended without a verdict; see sbatch.log",
    }.get(state, f"{state.value}{f' ({base.reason})' if base.reason else ''}; see sbatch.log")
    return _with(base, Phase.FAILED, f"{words}{reached}")


def _silence(facts: RunFacts, answer: Answer) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(answer.asked_at))
    words = f"unknown since {since}: {answer.unreachable}"
    if facts.progress.time is None:
        return words
    sign = time.strftime("%H:%M:%S", time.localtime(facts.progress.time))
    return f"{words}; last sign of life at {sign}: {describe(facts.progress)}"


def _reached(facts: RunFacts, before: str = "") -> str:
    result, progress = facts.result or {}, facts.progress
    iteration = result.get("iteration") if facts.result else progress.iteration
    if iteration is None:
        return ""
    total = result.get("train_iters") or progress.train_iters
    loss = result.get("loss", progress.loss)
    words = f"iteration {iteration}{f'/{total}' if total else ''}"
    return f"{before}{words}{f', loss {loss:.5g}' if isinstance(loss, int | float) else ''}"


def _with(base: RunStatus, phase: Phase, detail: str, **more: Any) -> RunStatus:
    return replace(base, phase=phase, detail=detail, **more)


def _job_of(facts: RunFacts, shell: Shell) -> tuple[str | None, str | None]:
    """The job of the newest start, or why it is not known; after a cut-off submission it is looked for by its token."""
    start = facts.start
    if start is None or start.job or not start.token or start.how not in ("submit_intent", "submit_unknown"):
        return (start.job if start else None), None
    try:
        return find_submission(start.token, shell), None
    except SlurmError as error:
        return None, error.message
