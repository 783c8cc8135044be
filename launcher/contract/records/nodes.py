"""Records of a node: ranks without progress, GPUs and adapters over time, checks and gates before the training."""

from typing import Literal, Optional, TypedDict


class CollectiveRecord(TypedDict):
    """The collective of a process group that a rank waits in, or its last, as torch's flight recorder shows it."""

    group: str
    seq: int
    op: str
    state: Literal["pending", "completed"]
    sizes: str


class RankSight(TypedDict):
    """One rank of a node that made no progress."""

    rank: int
    pid: Optional[int]
    phase: str
    steps: int
    """The number of steps that it has completed in this attempt."""
    silent_s: float
    state: Optional[str]
    """The kernel's letter for its process: R runs, S sleeps, D is blocked, T is stopped; null where it is gone."""
    stack: list[str]
    """The innermost frames of its main thread, `function FILE:LINE`; none where it gave none."""
    collectives: list[CollectiveRecord]


class StackDump(TypedDict):
    """What one rank is doing, as `launcher stacks` gets it from launcher/job/attach.py."""

    rank: int
    host: str
    pid: int
    by: Optional[Literal["py-spy", "faulthandler"]]
    """Who has written the text: py-spy of all threads, or the rank itself of its main thread; null for none."""
    text: str
    problem: Optional[str]
    """Why there is none, or why it is not py-spy's."""


class NodeHang(TypedDict):
    """The content of stacks/node-NNNN.json: what a node's watchdog has seen. Removed where progress goes on."""

    version: Literal[1]
    time: float
    node: int
    host: str
    stage: Literal["busy", "suspected", "ended"]
    """`busy`: within the limit of a save, an evaluation or the first step; `ended`: the watchdog ended the ranks."""
    limit_s: float
    silent_s: float
    ranks: list[RankSight]
    notes: list[str]
    """Why something is missing, such as py-spy without permission."""


class TelemetryRange(TypedDict):
    """What was measured again and again."""

    min: float
    mean: float
    max: float


class GpuTelemetry(TypedDict):
    """One GPU of a node; null where its driver says nothing."""

    index: int
    """Its place among those of the job, in the order of PCI addresses."""
    uuid: str
    address: str
    name: str
    samples: int
    busy_samples: int
    """Those in which it was used at least half of the time."""
    busy_sm_mhz: Optional[TelemetryRange]
    """Its clock in these."""
    sm_mhz: Optional[TelemetryRange]
    memory_mhz: Optional[TelemetryRange]
    power_w: Optional[TelemetryRange]
    temperature_c: Optional[TelemetryRange]
    memory_temperature_c: Optional[TelemetryRange]
    memory_bytes: Optional[TelemetryRange]
    throttled_samples: dict[str, int]
    """In how many samples its clocks were lowered, by reason."""
    corrected_errors: Optional[int]
    """Of its memory, since the first sample."""
    uncorrected_errors: Optional[int]


class AdapterTelemetry(TypedDict):
    """A network adapter of a node; errors are those since the first sample, by sysfs' names."""

    name: str
    sent_bytes_per_s: Optional[TelemetryRange]
    received_bytes_per_s: Optional[TelemetryRange]
    errors: dict[str, int]


class TelemetryHistory(TypedDict, total=False):
    """A node over time, by columns: the lowest clock and the highest temperature of its GPUs, their power together."""

    time: list[float]
    sm_mhz: list[Optional[float]]
    temperature_c: list[Optional[float]]
    power_w: list[Optional[float]]
    utilization_percent: list[Optional[float]]
    memory_bytes: list[Optional[float]]
    throttle: list[int]
    """Bits of the reasons for which clocks were lowered (job/watch/nvml.py)."""
    network_bytes_per_s: list[Optional[float]]


class NodeTelemetry(TypedDict):
    """The content of telemetry/NNNN.json: what a node's GPUs and adapters did."""

    version: Literal[1]
    node: int
    host: str
    began: float
    time: float
    interval_s: float
    samples: int
    cpu_s: float
    """CPU time that the samples took."""
    why: Optional[str]
    """Why GPUs could not be sampled."""
    gpus: list[GpuTelemetry]
    adapters: list[AdapterTelemetry]
    history: TelemetryHistory


class CheckedNode(TypedDict):
    """A node of a job with spare ones, as its check has found it."""

    node: str
    answered: bool
    """Whether its check has ended in time."""
    failed: dict[str, str]
    """Why checks have failed, by name (launcher doctor); those that failed on every node are not counted."""


class NodeCheck(TypedDict):
    """The content of node_check.json: which nodes of a job with spare ones train, and why."""

    version: Literal[1]
    time: float
    needed: int
    chosen: list[str]
    """In the order of ranks; empty where too few have passed."""
    nodes: list[CheckedNode]
    everywhere: dict[str, str]
    """Checks that failed on every node: they say nothing about one of them, and exclude none."""


class GateOutcome(TypedDict):
    """What became of a program that had to pass before the ranks start, or that was run after them."""

    name: str
    when: Literal["before", "after"]
    measures: bool
    """Whether it had to print an average bus bandwidth; else its exit status alone counts."""
    passed: bool
    started: bool
    """Whether the program could be started on the nodes."""
    reason: str
    """What it has measured, or why it has not passed."""
    bus_gb_s: Optional[float]
    """The average bus bandwidth in GB/s that it has printed; null where it has printed none."""
    min_bus_gb_s: Optional[float]
    """What was wanted; null: any."""


class GatesRecord(TypedDict):
    """The content of gates.json: the programs in their order, up to the first of those before that has not passed."""

    version: Literal[1]
    time: float
    gates: list[GateOutcome]
