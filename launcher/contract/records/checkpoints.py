"""Records of checkpoints: their sums, those that are not loaded any more, and the one that an attempt starts from."""

from typing import Literal, Optional, TypedDict

VerifyMode = Literal["full", "budget", "sizes"]
"""Of a checkpoint's files: all sums, those that a time limit allows, or the sizes alone."""


class FileSum(TypedDict):
    """Size and sum of a file, the sum in hexadecimal digits."""

    bytes: int
    sum: str


class CheckpointManifest(TypedDict):
    """The files of a checkpoint as they were when its save was final."""

    version: Literal[1]
    iteration: int
    algorithm: Literal["xxh3_64", "crc32"]
    files: dict[str, FileSum]
    own_sum: str
    """crc32 of this file's content without this key."""


class SumsRequest(TypedDict):
    """What rank 0 asks the other nodes to sum. Node N of `count` takes every `count`-th name from the N-th on."""

    version: Literal[1]
    directory: str
    algorithm: Literal["xxh3_64", "crc32"]
    names: list[str]
    seconds: Optional[float]
    """How long; null: as long as it takes."""


class SumsAnswer(TypedDict):
    """What a node has summed of its share."""

    version: Literal[1]
    node: int
    files: dict[str, FileSum]


class SetAside(TypedDict):
    """Why a checkpoint is not loaded any more. A later save of the same iteration removes the marker."""

    version: Literal[1]
    time: float
    attempt: str
    directory: str
    iteration: int
    file: str
    reason: str


class CheckpointVerification(TypedDict):
    """What was verified of a checkpoint before it was loaded."""

    state: Literal["verified", "partly verified", "sizes only", "unverified"]
    """`unverified`: no sums were recorded when it was saved; its structure was checked."""
    mode: VerifyMode
    files: int
    bytes: int
    verified_files: int
    verified_bytes: int
    note: Optional[str]


class PassedOver(TypedDict):
    """A checkpoint that was not chosen; `set_aside` says that a marker was written."""

    iteration: int
    file: str
    reason: str
    set_aside: bool


class CheckpointChoice(TypedDict):
    """What an attempt loads. Rank 0 writes it once, all others follow it."""

    version: Literal[1]
    time: float
    seconds: float
    resumed: bool
    """Whether it continues the run; else it loads what the user named, or nothing."""
    iteration: Optional[int]
    load: Optional[str]
    ckpt_step: Optional[int]
    verification: Optional[CheckpointVerification]
    passed_over: list[PassedOver]
    error: Optional[str]
    """Why no attempt can start from here."""
    where: Optional[str]
    hint: Optional[str]
    transient: bool
    """Whether another attempt need not meet the error."""
