"""Statuses of runs: a pure function of their directories and of Slurm's answer."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher._util.errors import SlurmError
from launcher._util.older_python import StrEnum
from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass, replace
from launcher.contract.paths import RunPaths
from launcher.rundir import RunDirectory
from launcher.slurm.info import cluster_name
from launcher.slurm.queue import Answer, Job, State, ask_jobs
from launcher.watch.job_memory import recall_job, remember_job
from launcher.watch.progress_state import SILENT_STEPS, clock, describe
from launcher.watch.run_state import RunState, Start, read_run_state
from launcher.watch.tail import last_lines

if TYPE_CHECKING:
    from launcher.slurm.submit import Submission

UNPROVEN = "Slurm shows neither the comment nor the command of this job, so it may be another one"

_START_MOVES_S = 4.0
"""How far the controller may move the start of a job while its nodes become ready."""

_FAR_S = 300 * 24 * 3600.0
"""Limit of a plausible estimate: behind a job without time limit, Slurm expects a start in a year."""


_NO_STATUS = -1
"""The status of a step whose end was not seen."""

_ENDED_BY_STATE = {
    State.CANCELLED: "cancelled",
    State.TIMEOUT: "the job's time limit",
    State.NODE_FAIL: "a node failed",
    State.PREEMPTED: "preempted",
}
_ENDED_BY_WORDS = {
    "TIME LIMIT": "the job's time limit",
    "PREEMPTION": "preempted",
    "NODE FAILURE": "a node failed",
}


_STOPS = ("the job's time limit", "preempted")
"""What ends a run although nothing in it has failed."""


class Phase(StrEnum):
    """The phase of a run, in one word."""

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
    DIVERGED = "diverged"
    CANCELLED = "cancelled"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        """Return whether the run has ended, or will not continue by itself."""
        return self not in _GOING_ON

    @property
    def good(self) -> bool:
        """Return whether the run has finished its training."""
        return self is Phase.FINISHED


_GOING_ON = {Phase.QUEUED, Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.SUSPENDED, Phase.UNKNOWN}


@dataclass(frozen=True)
class RunStatus:
    """The status of a run. Times in seconds since the epoch, durations in seconds."""

    run_state: RunState
    phase: Phase
    detail: str = ""
    """What the run waits for, how far it is, or how it ended, in words."""
    job: str | None = None
    job_cluster: str | None = None
    """Slurm's name of the job's cluster where it is not the local one."""
    job_proven: bool | None = None
    """Whether Slurm's job of this number is the run's: False if it is another one, None if that is not known."""
    job_state: str | None = None
    reason: str | None = None
    """Slurm's reason why the job waits."""
    expected_start: float | None = None
    unknown_since: float | None = None
    elapsed_s: float | None = None
    """How long its job runs, or the attempt took that has ended."""
    limit_left_s: float | None = None
    """How long its time limit lets the job run on."""

    @property
    def train_iters(self) -> int | None:
        """Return how many iterations it is to have."""
        result: Mapping[str, Any] = self.run_state.result or {}
        return result.get("train_iters") or self.run_state.progress.train_iters

    @property
    def seconds_per_iteration(self) -> float | None:
        """Return the median of its iterations."""
        result: Mapping[str, Any] = self.run_state.result or {}
        return result.get("seconds_per_iteration") or self.run_state.progress.seconds_per_iteration

    @property
    def seconds_left(self) -> float | None:
        """Return the estimated time to its last iteration; None for one that is over or silent."""
        if self.phase.over or self.run_state.silent_s is not None:
            return None
        return self.run_state.progress.seconds_left

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain values for --json."""
        run_state, progress = self.run_state, self.run_state.progress
        result: Mapping[str, Any] = run_state.result or {}
        return {
            "run_dir": str(run_state.path),
            "name": run_state.name,
            "run_id": run_state.run_id,
            "backend": run_state.backend,
            "cluster": run_state.cluster,
            "recipe": run_state.recipe,
            "world_size": run_state.world_size,
            "nodes": run_state.nodes,
            "elapsed_s": self.elapsed_s,
            "limit_left_s": self.limit_left_s,
            "phase": self.phase.value,
            "over": self.phase.over,
            "detail": self.detail,
            "job": self.job,
            "job_cluster": self.job_cluster,
            "job_proven": self.job_proven,
            "job_state": self.job_state,
            "reason": self.reason,
            "expected_start": self.expected_start,
            "unknown_since": self.unknown_since,
            "attempt": run_state.attempt,
            "attempts": run_state.attempts,
            "iteration": run_state.shown("iteration"),
            "train_iters": self.train_iters,
            "loss": run_state.shown("loss"),
            "loaded_iteration": progress.loaded,
            "loaded_checkpoint": progress.verified,
            "seconds_per_iteration": self.seconds_per_iteration,
            "tflops_per_gpu": progress.tflops_per_gpu,
            "tokens_per_second": progress.tokens_per_second,
            "seconds_left": self.seconds_left,
            "silent_s": run_state.silent_s,
            "hang": run_state.hang,
            "last_sign": progress.time,
            "outcome": result.get("outcome"),
            "stopped_by": result.get("stopped_by"),
            "checkpoint": result.get("checkpoint", progress.saved),
            "first_failing_rank": result.get("first_failing_rank"),
            "network": run_state.network,
        }


def status_of(
    runs: Sequence[RunDirectory], shell: Shell, *, clock: Callable[[], float] = time.time
) -> tuple[list[RunStatus], Answer]:
    """Return the statuses of runs, with one query to Slurm, and its answer. A damaged run is `unknown`.

    Jobs that have ended for good are remembered in their runs, and Slurm is not asked for them again.
    """
    run_states = [read_run_state(run) for run in runs]
    chains = [(each, *_waiting(each)) for each in run_states]
    found = _known_jobs([one for chain in chains for one in chain], shell)
    # Slurm is not needed for a run with a verdict, except for a batch job, which may have been requeued.
    asked: dict[str | None, list[str]] = {}
    for one, known in zip([one for chain in chains for one in chain], found, strict=True):
        if known.job and known.remembered is None and (not one.result or one.own_job):
            asked.setdefault(known.cluster, []).append(known.job)
    answers = {cluster: ask_jobs(ids, shell, cluster=cluster, clock=clock) for cluster, ids in asked.items()}
    nothing = Answer({}, clock())
    statuses, following = list[RunStatus](), iter(found)
    for run, chain in zip(runs, chains, strict=True):
        known_of_chain = [next(following) for _ in chain]
        judged = (
            _judge_known(run, one, known, answers.get(known.cluster, nothing))
            for one, known in zip(chain, known_of_chain, strict=True)
        )
        statuses.append(_of_chain(judged))
    return statuses, answers.get(None) or next(iter(answers.values()), nothing)


def _waiting(run_state: RunState) -> list[RunState]:
    """Return the state of a run as each of the jobs behind its own sees it."""
    return [
        replace(
            run_state,
            start=start,
            later=run_state.later[index + 1 :],
            attempt=None,
            result=None,
            read_progress=None,
            job_start=None,
            slurm_said=None,
        )
        for index, start in enumerate(run_state.later)
    ]


def _of_chain(judged: Iterator[RunStatus]) -> RunStatus:
    """Return the status of a run by its own job, or where that has ended, by the first behind it that waits or runs."""
    own = next(judged)
    if not own.phase.over or own.phase.good or own.run_state.damage is not None:
        return own
    return next((status for status in judged if not status.phase.over), own)


@dataclass(frozen=True)
class _KnownJob:
    """The job of a run's newest start, as far as it is known without asking for its state."""

    job: str | None = None
    cluster: str | None = None
    """None for the local cluster."""
    error: str | None = None
    """Why the job could not be looked for."""
    remembered: Job | None = None
    """What Slurm has said of a job that has ended for good."""


def _judge_known(run: RunDirectory, run_state: RunState, known: _KnownJob, answer: Answer) -> RunStatus:
    """Judge a run by its job, and remember what Slurm has said of one that has ended for good."""
    if known.remembered is not None:
        answer = replace(answer, jobs={known.remembered.id: known.remembered}, unreachable=None)
    if known.error is not None:
        answer = replace(answer, unreachable=known.error)
    status = _with_times(_judge_proven(run, run_state, known, answer), answer)
    job, start = answer.jobs.get(known.job or ""), run_state.start
    if known.remembered is None and job is not None and start is not None and _is_for_good(status, job):
        remember_job(run, start, run_state.attempts, job, known.cluster)
    return status


def _with_times(status: RunStatus, answer: Answer) -> RunStatus:
    """Return the status with how long the run takes and may take, where that is known."""
    result: Mapping[str, Any] = status.run_state.result or {}
    job, start = answer.jobs.get(status.job or ""), status.run_state.start
    if status.phase.over:
        began, ended = result.get("started"), result.get("ended")
        if isinstance(began, int | float) and isinstance(ended, int | float):
            return replace(status, elapsed_s=max(0.0, ended - began))
        return status
    if job is not None and not job.state.waiting and job.start is not None:
        left = None if job.limit_end is None else job.limit_end - answer.asked_at
        # A job without a time limit ends in a year.
        left = left if left is not None and left < _FAR_S else None
        return replace(status, elapsed_s=max(0.0, answer.asked_at - job.start), limit_left_s=left)
    if job is None and start is not None and start.how == "launched" and start.alive:
        return replace(status, elapsed_s=max(0.0, answer.asked_at - start.time))
    return status


def _is_for_good(status: RunStatus, job: Job) -> bool:
    """Return whether a job cannot begin again, and Slurm will not say more.

    Slurm requeues what squeue still shows. Of a job that accounting does not know either, its state may still arrive;
    it changes nothing for a run that has finished.
    """
    if not status.phase.over or status.job_proven is False or not job.terminal:
        return False
    return job.source == "sacct" or (job.state is State.FORGOTTEN and status.phase.good)


def _judge_proven(run: RunDirectory, run_state: RunState, known: _KnownJob, answer: Answer) -> RunStatus:
    """Judge the phase after having made sure that the job which Slurm describes is the run's own."""
    job, start = answer.jobs.get(known.job or ""), run_state.start
    if start is not None and not run_state.result and (original := run.pulled_from) is not None:
        text = f"a copy of {original}, as it was when it was copied"
        return RunStatus(run_state, Phase.UNKNOWN, text, job=known.job, unknown_since=answer.asked_at)
    if job is None or start is None or start.how == "launched" or job.source == "none" or job.state is State.UNKNOWN:
        status = judge(_ended_meanwhile(run, run_state, job), job, answer)
        return replace(status, job_cluster=known.cluster) if known.cluster is not None else status
    proven = job.belongs_to(start.shown_token, run_state.batch_scripts)
    if proven is False:
        words = f"Slurm's job {job.id} is not this run's"
        if start.cluster is None:
            answer = replace(answer, unreachable=f"{words}, and the journal does not name the run's cluster")
            job = Job(job.id, State.UNKNOWN)
        else:
            # The right controller was asked: it has lost the run's job, and gives out its numbers again.
            job = Job(job.id, State.FORGOTTEN, terminal=True, reason=words, source="none")
    status = judge(_ended_meanwhile(run, run_state, job), job, answer)
    if proven is None and not status.phase.over:
        status = replace(status, detail=f"{status.detail} | {UNPROVEN}")
    return replace(status, job=None if proven is False else status.job, job_cluster=known.cluster, job_proven=proven)


def _ended_meanwhile(run: RunDirectory, run_state: RunState, job: Job | None) -> RunState:
    """Return the state, read again if the job has ended and the state has no verdict yet.

    The state was read before the query to Slurm. A job writes its verdict before it ends, so it exists now if ever;
    otherwise the ranks' own records count.
    """
    start = run_state.start
    over = start is not None and start.alive is False if job is None else job.terminal
    if run_state.result or run_state.damage or not over:
        return run_state
    again = read_run_state(run)
    return _judged_by_ranks(again if again.start == run_state.start else run_state, job)


def _judged_by_ranks(run_state: RunState, job: Job | None) -> RunState:
    """Return the state with the verdict that the job would have written, where what its ranks and srun left allows one.

    A job that Slurm has ended cannot write it itself; then the cause of its end counts before the words of its ranks. A
    run that its user has cancelled stays cancelled, also where its ranks have saved and stopped.
    """
    if run_state.result or run_state.cancelled or run_state.attempt is None or run_state.world_size < 1:
        return run_state
    from launcher.contract import verdict

    attempt = RunPaths(run_state.path).attempt_paths(run_state.attempt)
    if not any(rank.failed for rank in verdict.read_ranks(attempt, run_state.world_size)):
        return replace(run_state, result=verdict.compose(attempt, run_state.world_size, 0, now=time.time()))
    if _ended_by(run_state, job.state if job else None):
        return run_state
    result = verdict.compose(attempt, run_state.world_size, _NO_STATUS, now=time.time())
    return replace(run_state, result=result) if result["failure"] else run_state


def judge(run_state: RunState, job: Job | None, answer: Answer) -> RunStatus:
    """Judge the phase of a run from its state and Slurm's answer."""
    start = run_state.start
    if run_state.damage is not None:
        return _damaged(run_state, run_state.damage, job, answer)
    if start is None:
        return RunStatus(run_state, Phase.PREPARED, "nothing was started")
    if start.how == "submit_refused":
        return RunStatus(run_state, Phase.REFUSED, start.error or "Slurm refused the job")
    if start.how == "launched":
        return _launched(run_state, start, job, answer)
    if job is None:
        if run_state.attempt:
            return _going_on(run_state, RunStatus(run_state, Phase.UNKNOWN))
        if answer.unreachable:
            return RunStatus(run_state, Phase.UNKNOWN, _slurm_silent(run_state, answer), unknown_since=answer.asked_at)
        return RunStatus(run_state, Phase.UNSUBMITTED, "the submission was interrupted, and Slurm has no such job")
    return _submitted(run_state, job, answer)


def _damaged(run_state: RunState, damage: str, job: Job | None, answer: Answer) -> RunStatus:
    """Return the status of a run whose directory is damaged: unknown, with what Slurm says of its job."""
    base = RunStatus(run_state, Phase.UNKNOWN, damage)
    if job is not None and job.state is not State.UNKNOWN:
        return replace(base, job=job.id, job_state=job.state.value, reason=job.reason)
    job_id = job.id if job is not None else run_state.start.job if run_state.start else None
    return replace(base, job=job_id, unknown_since=answer.asked_at if answer.unreachable else None)


def _submitted(run_state: RunState, job: Job, answer: Answer) -> RunStatus:
    base = RunStatus(run_state, Phase.UNKNOWN, job=job.id, job_state=job.state.value, reason=job.reason)
    if job.state is State.UNKNOWN:
        if run_state.result:
            return _over(run_state, base)
        return _with(base, Phase.UNKNOWN, _slurm_silent(run_state, answer), unknown_since=answer.asked_at)
    if job.state.waiting:
        return _queued(base, job, answer.asked_at)
    if job.terminal:
        return _over(run_state, base)
    # If a requeued job has just started again, the newest attempt is the previous one. The controller moves the start
    # of a job by seconds when its nodes are ready; a requeued job starts later than that.
    began = run_state.job_start
    earlier = job.start is not None and began is not None and began < job.start - _START_MOVES_S
    if run_state.attempt is None or earlier:
        return _with(base, Phase.STARTING, f"on {job.nodes}" if job.nodes else "")
    if job.state in (State.SUSPENDED, State.STOPPED):
        return _with(base, Phase.SUSPENDED, describe(run_state.progress))
    if run_state.result:
        return _over(run_state, base)
    return _going_on(run_state, base)


def _launched(run_state: RunState, start: Start, job: Job | None, answer: Answer) -> RunStatus:
    base = RunStatus(run_state, Phase.UNKNOWN, job=start.job, job_state=job.state.value if job else None)
    if run_state.result:
        return _over(run_state, base)
    if start.alive or (start.alive is None and job is not None and job.state is State.RUNNING):
        return _going_on(run_state, base)
    if start.alive is None and not (job is not None and job.terminal):
        return _with(base, Phase.UNKNOWN, f"it was started on {start.host}; ask there", unknown_since=answer.asked_at)
    if run_state.cancelled:
        return _with(base, Phase.CANCELLED, _reached(run_state))
    return _with(base, Phase.LOST, f"its launcher has ended and left no verdict{_reached(run_state, '; ')}")


def _queued(base: RunStatus, job: Job, now: float) -> RunStatus:
    expected = job.start if job.start is not None and 0 <= job.start - now < _FAR_S else None
    again = "again, " if base.run_state.attempts else ""
    words = f"{again}{job.reason or 'waiting'}"
    return _with(base, Phase.QUEUED, words, expected_start=expected)


def silence_words(run_state: RunState) -> str:
    """Say that a run shows no sign of life for longer than it should; an empty text where it does or nothing is known.

    Without a record of a watchdog it may save or evaluate as well as hang.
    """
    if run_state.hang is not None:
        return f"silent: {run_state.hang}"
    if run_state.silent_s is None:
        return ""
    ten = SILENT_STEPS * (run_state.progress.seconds_per_iteration or 0.0)
    return (
        f"silent: no iteration for {clock(run_state.silent_s)}, ten take {clock(ten)}; it may save, evaluate, or hang"
    )


def _going_on(run_state: RunState, base: RunStatus) -> RunStatus:
    parts = (describe(run_state.progress), run_state.outside, silence_words(run_state), _orphan_words(run_state))
    words = " | ".join(each for each in parts if each)
    if run_state.stopping:
        return _with(base, Phase.STOPPING, f"asked to save and stop | {words}")
    return _with(base, Phase.STARTING if run_state.progress.iteration is None else Phase.RUNNING, words)


def _orphan_words(run_state: RunState) -> str:
    """Say that what the launcher has started outlives it; an empty text where it does not."""
    orphans = run_state.start.orphans if run_state.start else ()
    if not orphans:
        return ""
    count = "1 process" if len(orphans) == 1 else f"{len(orphans)} processes"
    live = "lives" if len(orphans) == 1 else "live"
    return f"its launcher has ended, but {count} of the run {live} on; `launcher cancel` ends them"


def _over(run_state: RunState, base: RunStatus) -> RunStatus:
    """Return the status of a run that has ended: by its verdict, or by the state of its job if it has none."""
    state = State(base.job_state) if base.job_state else None
    if run_state.result is None:
        return _without_verdict(run_state, base, state)
    outcome = str(run_state.result.get("outcome"))
    reason = run_state.result.get("reason")
    stopped_by = run_state.result.get("stopped_by")
    ended_by = None if outcome == "finished" or stopped_by not in (None, "asked") else _ended_by(run_state, state)
    words = " | ".join(
        each for each in (ended_by, str(reason or ""), _reached(run_state), _how_to_continue(run_state)) if each
    )
    cancelled = state is State.CANCELLED or run_state.cancelled
    if stopped_by == "cancelled" or (outcome == "failed" and cancelled):
        return _with(base, Phase.CANCELLED, words)
    phase = Phase(outcome) if outcome in ("finished", "stopped", "failed", "diverged") else Phase.UNKNOWN
    return _with(base, phase, words)


def _ended_by(run_state: RunState, state: State | None) -> str | None:
    """Return what ended the job from outside: by its state, and where that says nothing, by sbatch.log and the journal.

    Without accounting Slurm forgets the state of a job a few minutes after its end.
    """
    by_state = _ENDED_BY_STATE.get(state) if state else None
    if by_state is not None or (state is not None and state is not State.FORGOTTEN):
        return by_state
    said = run_state.slurm_said
    if said is None:
        return "cancelled" if run_state.cancelled else None
    from launcher.contract.verdict import CANCELLED  # here, not at the top: a list of finished runs needs none

    if said == CANCELLED:
        return "cancelled"
    return _ENDED_BY_WORDS.get(said, f"ended by Slurm due to {said.lower()}")


def _how_to_continue(run_state: RunState) -> str:
    """Return the newest checkpoint and the command that continues the run; nothing where neither is known to apply."""
    outcome = run_state.result.get("outcome") if run_state.result else None
    if outcome not in (None, "stopped") or (saved := run_state.progress.saved) is None:
        return ""
    command = "submit" if run_state.own_job else "run"
    run = f"{run_state.name}/{run_state.run_id}"
    return f"checkpoint of iteration {saved}; `launcher {command} --resume {run}` continues it"


def _without_verdict(run_state: RunState, base: RunStatus, state: State | None) -> RunStatus:
    reached = _reached(run_state, "; ")
    if continued := _how_to_continue(run_state):
        reached += f"; {continued}"
    ended_by = _ended_by(run_state, state)
    if ended_by == "cancelled":
        return _with(base, Phase.CANCELLED, f"the job was cancelled{reached}")
    if run_state.outside:
        reached = f": {run_state.outside}{reached}"
    if ended_by is not None:
        phase = Phase.STOPPED if ended_by in _STOPS else Phase.FAILED
        return _with(base, phase, f"{ended_by}{reached}")
    if (state is State.FORGOTTEN or state is None) and not run_state.outside:
        why = f" ({base.reason})" if base.reason else ""
        return _with(base, Phase.LOST, f"Slurm no longer has the job{why}, and there is no verdict{reached}")
    return _with(base, Phase.FAILED, f"{_state_words(run_state, base, state)}{reached}")


def _state_words(run_state: RunState, base: RunStatus, state: State | None) -> str:
    """Return what Slurm's state says of a job that has ended without a verdict."""
    from launcher.contract.failures import of_state

    cause = of_state(state.value) if state else None
    if cause is not None:
        return cause.line
    if state in (None, State.COMPLETED, State.FORGOTTEN):
        return "the job ended without a verdict"
    words = f"{state.value}{f' ({base.reason})' if base.reason else ''}"
    log = RunPaths(run_state.path).sbatch_log
    return f"{words}; see {log.name}" if not run_state.outside and last_lines(log) else words


def _slurm_silent(run_state: RunState, answer: Answer) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(answer.asked_at))
    words = f"unknown since {since}: {answer.unreachable}"
    if run_state.progress.time is None:
        return words
    sign = time.strftime("%H:%M:%S", time.localtime(run_state.progress.time))
    return f"{words}; last sign of life at {sign}: {describe(run_state.progress)}"


def _reached(run_state: RunState, before: str = "") -> str:
    result: Mapping[str, Any] = run_state.result or {}
    iteration = result.get("iteration") if run_state.result else run_state.progress.iteration
    if iteration is None:
        return ""
    total = result.get("train_iters") or run_state.progress.train_iters
    loss = run_state.shown("loss")
    words = f"iteration {iteration}{f'/{total}' if total else ''}"
    return f"{before}{words}{f', loss {loss:.5g}' if isinstance(loss, int | float) else ''}"


def _with(base: RunStatus, phase: Phase, detail: str, **more: Any) -> RunStatus:
    return replace(base, phase=phase, detail=detail, **more)


def _known_jobs(run_states: Sequence[RunState], shell: Shell) -> list[_KnownJob]:
    """Return the job of each state's start; those of interrupted submissions are found by their tokens, all at once."""
    remembered = [recall_job(each) for each in run_states]
    left = [each for each, job in zip(run_states, remembered, strict=True) if job is None]
    here = _local_cluster(left, shell)
    searched = [start for each in run_states if (start := each.start) is not None and _is_interrupted(start)]
    found: dict[str, Submission] = {}
    errors: dict[str | None, str] = {}
    for clusters in dict.fromkeys(start.clusters for start in searched):
        tokens = [start.shown_token for start in searched if start.clusters == clusters and start.shown_token]
        try:
            from launcher.slurm.submit import find_submissions

            found |= find_submissions(tokens, shell, clusters)
        except SlurmError as error:
            errors[clusters] = error.message
    return [
        _known_job(each.start, here, found, errors) if job is None else _KnownJob(job[0].id, job[1], remembered=job[0])
        for each, job in zip(run_states, remembered, strict=True)
    ]


def _is_interrupted(start: Start) -> bool:
    """Return whether it is a submission whose outcome was not recorded."""
    return not start.job and bool(start.token) and start.how in ("submit_intent", "submit_unknown")


def _known_job(
    start: Start | None, here: str | None, found: Mapping[str, "Submission"], errors: Mapping[str | None, str]
) -> _KnownJob:
    if start is None:
        return _KnownJob()
    if _is_interrupted(start):
        submission = found.get(start.shown_token or "")
        if submission is None:
            return _KnownJob(error=errors.get(start.clusters))
        return _KnownJob(start.task_of(submission.job), submission.cluster)
    elsewhere = start.cluster if here is not None and start.cluster != here else None
    return _KnownJob(start.job, elsewhere)


def _local_cluster(run_states: Sequence[RunState], shell: Shell) -> str | None:
    """Return the name of the local cluster where the cluster of a job is recorded; None where Slurm does not answer."""
    if not any(each.start and each.start.cluster for each in run_states):
        return None
    try:
        return cluster_name(shell)
    except SlurmError:
        return None
