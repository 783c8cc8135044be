"""Records of a rank's start and end, by the rank itself and by step.sh around it."""

from typing import Literal, NamedTuple, Optional, TypedDict

RankOutcome = Literal["finished", "stopped", "failed"]
"""How a rank says that it ended."""

Cause = Literal["user", "program", "communication", "network", "container", "outside"]
"""Of a failure: a wrong request, the program, a lost peer, a network that policy does not allow, no container, or
something outside the job that another attempt may find working: the hub, a file system."""


class ExceptionRecord(TypedDict):
    """The exception that a rank ended with; `where` is `file:line in function`."""

    type: str
    message: str
    where: Optional[str]
    traceback: str


class RankRecord(TypedDict):
    """What a rank says of its own end."""

    version: Literal[1]
    rank: int
    host: str
    pid: int
    time: float
    outcome: RankOutcome
    reason: Optional[str]
    """Why it stopped."""
    iteration: Optional[int]
    """The last one that was completed; null before the training loop."""
    exception: Optional[ExceptionRecord]
    cause: Optional[Cause]


class ExitRecord(TypedDict):
    """What step.sh saw of a rank's end."""

    rank: int
    status: int
    """As bash gives it: 128 and the signal of a program that was killed."""
    time: float
    host: str


class StartRecord(NamedTuple):
    """The start that an attempt under Slurm belongs to. Written as one line of text: `NONCE JOB SECONDS BYTES`."""

    nonce: str
    """The token of its submission."""
    job: str
    """Its number as slurmd writes it into logs: that of a task of an array is not ARRAY_INDEX."""
    job_start: Optional[float]
    """When Slurm's controller started the job, by its own clock; a dash where the controller did not answer."""
    log_bytes: int = 0
    """How long sbatch.log was when the attempt began."""

    @classmethod
    def parse(cls, text: str) -> "StartRecord":
        """Return the record in a line. Raises ValueError."""
        nonce, job, seconds, *more = text.split()
        return cls(nonce, job, None if seconds == "-" else float(seconds), int(more[0]) if more else 0)
