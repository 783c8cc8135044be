"""Records of a profiler's captures."""

from typing import Literal, Optional, TypedDict

CaptureState = Literal["waiting", "capturing", "saved", "captured", "passed", "failed"]
"""The window is ahead; open; its file is written; is nsys' to write; was over before this attempt began; or the
profiler failed."""


class CaptureFacts(TypedDict):
    """Whose capture it is. `job` is Slurm's number, or `local`."""

    profiler: str
    rank: int
    node: int
    host: str
    pid: int
    job: str
    attempt: str


class CaptureRecord(CaptureFacts):
    """What became of one rank's capture."""

    version: Literal[1]
    time: float
    window: list[int]
    """The first step, and the first after the last."""
    state: CaptureState
    began_at: Optional[int]
    """The step at which this attempt entered the training loop."""
    steps: list[int]
    """Those that were captured whole."""
    error: Optional[str]
    file: str
    bytes: Optional[int]
    seconds: Optional[float]
    """How long stopping and saving took."""


class _NsysReport(TypedDict):
    file: Optional[str]
    """The report's name; null where nsys wrote none."""
    why: Optional[str]
    """What is wrong with it."""


class NsysReport(_NsysReport, total=False):
    """What is in the report of nsys."""

    bytes: Optional[int]
    opens: Optional[bool]
    """Null where that was not seen."""
    kernels: Optional[int]
    steps: list[int]


class _NsysRecord(NsysReport):
    version: Literal[1]
    rank: int


class NsysRecord(_NsysRecord, total=False):
    """What the process around nsys saw; without `status` the program was not started, and `why` says the reason."""

    nsys: Optional[str]
    argv: list[str]
    status: int
    ended_by_launcher: bool
    left_out: list[str]
    seconds_after_program: Optional[float]
    seconds: float
