"""Metrics and phases of an attempt, with the network and the placement of its nodes."""

from typing import Any, Literal, Optional, TypedDict

from launcher.contract.records.checkpoints import CheckpointVerification, PassedOver
from launcher.contract.records.ranks import RankOutcome


class _MetricsLine(TypedDict):
    iteration: int
    train_iters: int
    loss: Optional[float]
    grad_norm: Optional[float]
    learning_rate: Optional[float]
    seconds: float
    tokens: int
    tokens_per_second: float
    tflops_per_gpu: Optional[float]
    memory_bytes: Optional[int]
    """The most that the GPU's allocator has held."""
    time: float


class MetricsLine(_MetricsLine, total=False):
    """One iteration. `losses` has the losses besides `loss`, `not_finite` the names of numbers that JSON lacks."""

    skipped: bool
    losses: dict[str, Optional[float]]
    not_finite: list[str]


class _TimelineEvent(TypedDict):
    time: float
    rank: int
    event: str
    seconds: Optional[float]
    """How long the phase took that ends with this event."""


class GpuPlacement(TypedDict):
    """A GPU of a node: its index and address, and the NUMA node next to it."""

    index: int
    uuid: str
    address: str
    name: str
    numa_node: Optional[int]


class NodePlacement(TypedDict):
    """What the first rank of a node was bound to; CPUs in the kernel's notation `0-3,8`."""

    rank: int
    node: int
    allowed_cpus: str
    bound_cpus: str
    numa_node: Optional[int]
    memory: Optional[str]
    """`preferred`, or why the node's memory is not preferred."""
    why: Optional[str]
    """Why the CPUs stay as they were."""
    gpus: list[GpuPlacement]


class PlacementRecord(NodePlacement):
    """The content of placement/NNNN.json."""

    version: Literal[1]


class NetworkSummary(TypedDict):
    """What a node's network turned out to be, as the timeline has it too."""

    verdict: Literal["good", "bad", "unknown"]
    sentence: str
    fabric: str
    policy: str
    selected: dict[str, Any]
    """What NCCL said that it uses."""


class NetworkRecord(NetworkSummary):
    """The content of network/NNNN.json; `ends` says that the run ends for it."""

    version: Literal[1]
    time: float
    rank: int
    node: int
    host: str
    cause: Optional[str]
    line: Optional[str]
    """The line of NCCL's log that decided."""
    ends: bool
    log: Optional[str]


class TimelineEvent(_TimelineEvent, total=False):
    """One phase of an attempt; what else there is depends on `event`."""

    device: str
    iteration: Optional[int]
    losses: dict[str, Optional[float]]
    # event "save": checkpoint.save of the configuration
    directory: Optional[str]
    outcome: RankOutcome
    reason: Optional[str]
    # event "checkpoint_verified"
    verification: Optional[CheckpointVerification]
    passed_over: list[PassedOver]
    # event "checksums": the manifest of a checkpoint was written
    files: int
    bytes: int
    algorithm: str
    # event "no_space": the save of this iteration cannot fit; it needs `bytes`
    free_bytes: int
    # event "network": NetworkSummary
    verdict: str
    sentence: str
    fabric: str
    policy: str
    selected: dict[str, Any]
    # event "placement": NodePlacement
    node: int
    allowed_cpus: str
    bound_cpus: str
    numa_node: Optional[int]
    memory: Optional[str]
    why: Optional[str]
    gpus: list[GpuPlacement]
    not_finite: list[str]


class NetworkEvent(_TimelineEvent, NetworkSummary):
    """The event `network` of the timeline."""


class PlacementEvent(_TimelineEvent, NodePlacement):
    """The event `placement` of the timeline."""
