"""The end of an attempt and what follows: the notice of sbatch.sh, result.json, next.json."""

from typing import Literal, Optional, TypedDict, get_args

from launcher.contract.records.ranks import Cause, RankOutcome

Outcome = Literal[RankOutcome, "diverged"]
"""How an attempt ended: `diverged` where the ranks trained on although their loss was not finite any more."""

StopCause = Literal["asked", "time limit", "preempted", "requeued", "cancelled", "signal", "superseded"]
"""What ended an attempt from outside: a user's `cancel --checkpoint` or Ctrl-C; Slurm, as sbatch.sh has learnt from the
controller; `cancel` in an allocation; a SIGTERM while the controller did not answer; or another attempt, which owns the
run."""
STOP_CAUSES = get_args(StopCause)

SUPERSEDED: StopCause = "superseded"
"""Begins the reason of a rank that ended because another attempt owns the run."""


class Notice(TypedDict):
    """Why an attempt is ended from outside. Written once, by sbatch.sh."""

    version: Literal[1]
    time: float
    why: StopCause
    left_s: Optional[int]
    """Until the end of the job, as the controller said then; null where it has none or the controller did not say."""


class FailingRank(TypedDict):
    """The rank to look at first; `what` is how it ended in a few words."""

    rank: int
    host: Optional[str]
    what: str
    where: Optional[str]
    cause: Optional[Cause]


class MissingCapture(TypedDict):
    """An expected capture that cannot be used."""

    rank: int
    file: Optional[str]
    why: Optional[str]


class ProfilesResult(TypedDict):
    """What became of the captures that were asked for."""

    profiler: str
    steps: list[int]
    """The first one, and the first after the last."""
    expected: int
    found: int
    missing: list[MissingCapture]
    passed: Optional[str]
    """Why nothing was to be captured in this attempt."""


class ProgressResult(TypedDict):
    """How far an attempt came."""

    iteration: Optional[int]
    train_iters: Optional[int]
    loss: Optional[float]
    """That of the last logged iteration; null where it was not finite or not logged."""
    seconds_per_iteration: Optional[float]
    """The median."""
    diverged_at: Optional[int]
    """The first of the last iterations whose loss was not finite; null where the loss was finite at the end."""


class FailureEvidence(TypedDict):
    """What names the cause of a failure."""

    rule: str
    """The row of the table (contract/failures.py) that decided."""
    line: str
    node: Optional[str]
    """The node that the lines name; null where they name none."""
    ranks: list[int]
    """The ranks that the lines name; of a hang those that did not come to the collective."""
    collective: Optional[str]
    todo: str
    """What to do about it."""


class AttemptResult(ProgressResult):
    """The content of result.json: how an attempt ended."""

    version: Literal[1]
    attempt: str
    outcome: Outcome
    reason: Optional[str]
    stopped_by: Optional[StopCause]
    """Null where nothing from outside ended it."""
    checkpoint: Optional[int]
    """The iteration of the newest checkpoint that it saved."""
    failure: Optional[str]
    """The class of a failure (contract/failures.py); null where no rule matches, and without a failure."""
    evidence: Optional[FailureEvidence]
    first_failing_rank: Optional[FailingRank]
    failed_ranks: list[int]
    missing_ranks: list[int]
    """Those that left nothing at all."""
    profiles: Optional[ProfilesResult]
    step_status: int
    started: Optional[float]
    ended: float


NextAction = Literal["end", "requeue", "successor"]


class NextAttempt(TypedDict):
    """What was decided after an attempt of a run that keeps going (contract/next_attempt.py)."""

    version: Literal[1]
    time: float
    kind: str
    """Why the attempt ended (contract/next_attempt.py, Kind)."""
    action: NextAction
    reason: str
    delay_s: float
    exclude: list[str]
    """Nodes that the next attempt must not get."""
    ckpt_step: Optional[int]
    """The checkpoint from which a diverged run continues; newer ones are set aside."""
    token: Optional[str]
    """What would identify the job of a successor."""
