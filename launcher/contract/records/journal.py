"""The lease of a run, and the journal of what the launcher did."""

from typing import Literal, Optional, TypedDict


class Lease(TypedDict):
    """The content of the file `lease`: who executes the run now."""

    version: Literal[1]
    nonce: str
    """The token of its submission."""
    cluster: Optional[str]
    job_id: Optional[str]
    """None for a process outside Slurm."""
    host: str
    attempt: str
    time: float


StartEvent = Literal["submit_intent", "submit_unknown", "submit_refused", "submitted", "launched", "requeue"]
"""The events that say how a run was started, and what came of that."""

JournalEventName = Literal[StartEvent, "not_owner", "stop_requested", "cancelled", "cancel_failed"]
"""`cancelled` is written before anything is ended, `cancel_failed` where that did not succeed; the two cancel out."""


class StartedBy(TypedDict):
    """The launcher that started a run, and the process group of what it started."""

    pid: int
    start_ticks: Optional[int]
    group: int
    group_start_ticks: Optional[int]
    """Those of the group's first process, whose number the group has."""
    boot_id: str
    """Empty where the kernel does not say."""
    host: str


class JournalValues(TypedDict, total=False):
    """What an event of the journal says besides its name and time; what there is depends on the event."""

    backend: str
    submission: int
    token: str
    job: Optional[str]
    cluster: Optional[str]
    """Slurm's name of the job's cluster; None where Slurm did not say."""
    clusters: Optional[str]
    """The clusters among which the request lets Slurm choose, as given to sbatch."""
    array: str
    """The token of the job array of which the job is a task, which Slurm shows in place of the run's own token."""
    index: int
    """The task's index in that array."""
    after: Optional[str]
    """The jobs behind which this one was queued by hand, separated by colons; None for one that waits for none."""
    owner: str
    """The nonce of the job that owns the run, where another one has not got it."""
    owner_job: str
    recovered: bool
    error: str
    attempt: str
    reason: str
    pid: int
    start_ticks: Optional[int]
    group: int
    group_start_ticks: Optional[int]
    boot_id: str
    host: str


class JournalEvent(JournalValues):
    """One thing that the launcher was about to do or has done."""

    time: float
    event: JournalEventName
