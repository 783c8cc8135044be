"""The content of every file that passes between the launcher and its jobs.

    RunPaths.argv_file              JobRequest
    AttemptPaths.rank_record        RankRecord
    AttemptPaths.exit_record        ExitRecord, one line of text
    AttemptPaths.start              StartRecord, one line of text
    AttemptPaths.notice             Notice
    AttemptPaths.result_file        AttemptResult
    AttemptPaths.next_file          NextAttempt
    AttemptPaths.metrics            MetricsLine, one for each iteration
    AttemptPaths.timeline           TimelineEvent, one for each phase
    RunPaths.journal_file           JournalEvent, one for each thing that the launcher did
    AttemptPaths.environment        EnvironmentRecord
    AttemptPaths.network_record     NetworkRecord
    AttemptPaths.placement_record   PlacementRecord
    AttemptPaths.checkpoint_choice  CheckpointChoice
    sums/ITERATION.request.json     SumsRequest
    sums/ITERATION.NODE.json        SumsAnswer
    RunPaths.manifest               CheckpointManifest
    RunPaths.set_aside              SetAside
    AttemptPaths.hang_record        NodeHang
    AttemptPaths.telemetry_record   NodeTelemetry
    AttemptPaths.trackers           TrackersRecord
    profiles/STEM.record.json       CaptureRecord
    profiles/STEM.nsys.json         NsysRecord

Times are seconds since the epoch, durations seconds. Readers ignore keys that they do not know: a resumed run executes
the code of its first attempt, and a later launcher may have written its argv.json.
"""

from typing import Any, Literal, NamedTuple, Optional, TypedDict, Union, final, get_args

RankOutcome = Literal["finished", "stopped", "failed"]
"""How a rank says that it ended."""

Outcome = Literal[RankOutcome, "diverged"]
"""How an attempt ended: `diverged` where the ranks trained on although their loss was not finite any more."""

StopCause = Literal["asked", "time limit", "preempted", "requeued", "cancelled", "signal", "superseded"]
"""What ended an attempt from outside: a user's `cancel --checkpoint` or Ctrl-C; Slurm, as sbatch.sh has learnt from the
controller; a SIGTERM while the controller did not answer; or another attempt, which owns the run."""
STOP_CAUSES = get_args(StopCause)

SUPERSEDED: StopCause = "superseded"
"""Begins the reason of a rank that ended because another attempt owns the run."""

Cause = Literal["user", "program", "communication", "network", "container", "outside"]
"""Of a failure: a wrong request, the program, a lost peer, a network that policy does not allow, no container, or
something outside the job that another attempt may find working: the hub, a file system."""


VerifyMode = Literal["full", "budget", "sizes"]
"""Of a checkpoint's files: all sums, those that a time limit allows, or the sizes alone."""


# ---- argv.json


@final
class RecipeFileRequest(TypedDict):
    """A recipe that is a Python file; `path` is relative to code/."""

    path: str
    function: str


@final
class BridgeRecipeRequest(TypedDict):
    """A recipe of Megatron Bridge, by its name."""

    bridge: str


@final
class MegatronScriptRequest(TypedDict):
    """A training by Megatron-LM's command line."""

    mlm: str
    """`gpt` for the launcher's own script, else the script's path below `source`."""
    source: Optional[str]
    """The directory of a checkout; null: the installed packages."""
    words: list[str]
    """Megatron-LM's arguments."""


RecipeRequest = Union[RecipeFileRequest, BridgeRecipeRequest, MegatronScriptRequest]


class _OverrideRecord(TypedDict):
    key: str
    text: str
    """As the user wrote it, in Hydra's grammar."""


class OverrideRecord(_OverrideRecord, total=False):
    """One override, parsed by the launcher."""

    value: Any
    """As Hydra reads it; missing where JSON has no form for it."""


class NetworkOptions(TypedDict):
    """What the network between the ranks is held to."""

    policy: Literal["require", "warn"]
    fabric: str
    nodes: int
    ranks_per_node: int
    nvlink_domain: bool
    """Whether NVLink reaches beyond a node."""
    nics_per_node: Optional[int]
    gdr: bool
    """Whether adapters are to reach the memory of GPUs (GPUDirect RDMA)."""
    sharp: bool
    """Whether the switches are to reduce (SHARP)."""


class NsysRequest(TypedDict):
    """How nsys is called."""

    program: str
    trace: Optional[str]
    args: list[str]
    gpu_metrics: bool
    fabric: Optional[str]


CustomProfilerRequest = TypedDict("CustomProfilerRequest", {"path": str, "class": str})
"""A profiler class of the user's; `path` is relative to code/."""


class ProfilerRequest(TypedDict):
    """What is captured: the steps from `start` until before `stop`, on these ranks (none: all)."""

    name: str
    start: int
    stop: int
    ranks: list[int]
    extension: str
    finish_timeout_s: int
    nsys: Optional[NsysRequest]
    own: Optional[CustomProfilerRequest]


class RetryPolicy(TypedDict):
    """How a run keeps going: when it gives up, how long it waits, and which nodes its jobs avoid."""

    without_progress: int
    """Attempts in a row without a newer checkpoint after which it ends."""
    backoff_s: float
    """Seconds before the attempt after the first one without progress; doubled for each further one."""
    strikes: int
    """Failures that point at a node after which it is excluded."""
    strike_hours: float
    """How long a strike counts."""
    excluded_percent: float
    """The most nodes that are excluded, in percent of the run's own number; one node always may be."""
    exclude: Optional[str]
    """The nodes that the user excludes, as Slurm lists them."""


class HangLimits(TypedDict):
    """How many seconds a rank may be without progress, by phase."""

    hang_limit_s: float
    """In training: this, or 30 times the slowest of the last 100 steps, whichever is longer."""
    start_limit_s: float
    first_step_limit_s: float
    evaluation_limit_s: float
    save_limit_s: float


class _JobOptions(TypedDict):
    """The launcher's own options that count in the job."""

    device: Literal["auto", "cpu", "gpu"]
    load: bool
    """Whether a new run may load the checkpoint that `checkpoint.load` names."""
    init: Optional[str]
    """Where initial weights come from: pretrained or random; null: as the recipe says."""
    profiler: Optional[ProfilerRequest]
    user_env: list[str]
    """Names of the variables that the user set by --env."""
    network: Optional[NetworkOptions]
    """Null where the network is not checked."""
    numa_binding: bool
    verify: VerifyMode
    """How a checkpoint is verified before it is loaded."""
    keep_going: Optional[RetryPolicy]
    """Null where the run ends with its first attempt."""

    hang_limits: HangLimits


class NotifyOptions(TypedDict):
    """How the ends of attempts are announced."""

    command: list[str]
    """A program with its arguments, which gets the message on its standard input; empty for none."""
    url_variable: Optional[str]
    """The name of the variable that holds the URL which the message is posted to."""


class JobOptions(_JobOptions, total=False):
    """The launcher's own options; those that are seldom given are left out."""

    mcore: str
    """The directory of a Megatron-Core to import in place of the image's."""
    notify: NotifyOptions
    telemetry_s: float
    """Seconds between samples of a node's GPUs and adapters; 0 for none."""
    probe: bool
    """Whether each rank records what it holds at each stage (job/probe.py)."""


class JobRequest(TypedDict):
    """The content of argv.json: what each rank is given."""

    version: Literal[1]
    recipe: RecipeRequest
    arguments: dict[str, str]
    """Of the recipe's function, as the user wrote them."""
    overrides: list[OverrideRecord]
    options: JobOptions


class CheckRequest(TypedDict):
    """What --check-config and --fetch read from standard input: a run's request, before there is a run."""

    recipe: RecipeRequest
    arguments: dict[str, str]
    overrides: list[OverrideRecord]
    options: JobOptions
    world_size: int
    ranks_per_node: int
    resumed: Optional[str]
    """The checkpoints of the run that is resumed."""


# ---- what a rank leaves


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


class ExitRecord(NamedTuple):
    """What step.sh saw of a rank's end: bash's status, the time, the host. Written as one line of text."""

    status: int
    time: float
    host: str

    @classmethod
    def parse(cls, text: str) -> "ExitRecord":
        """Return the record in a line `STATUS SECONDS HOST`. Raises ValueError."""
        status, seconds, host = text.split()[:3]
        return cls(int(status), float(seconds), host)


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


class EnvironmentRecord(TypedDict):
    """The environment of rank 0: values that are harmless or in the plan; of all others the names, in `left_out`."""

    version: Literal[1]
    environment: dict[str, str]
    left_out: list[str]


class _MegatronRecord(TypedDict):
    """What rank 0 has imported of Megatron."""

    version: Literal[1]
    core: str
    """The version of megatron-core."""
    core_path: str
    core_commit: Optional[str]
    """Of a checkout; null for an installed package."""
    bridge: Optional[str]
    training_path: Optional[str]
    """The directory of megatron.training; null where it is not imported."""


class MegatronRecord(_MegatronRecord, total=False):
    """The content of megatron.json: what rank 0 has imported."""

    packages: dict[str, str]
    """Versions of the packages of the training stack that are installed, and of Python and CUDA."""


class TrackerRecord(TypedDict):
    """Where an experiment tracker has the run."""

    id: Optional[str]
    """The same in all attempts of a run."""
    name: Optional[str]
    project: Optional[str]
    url: Optional[str]
    """Null where it is not on a server."""
    place: Optional[str]
    """The directory or address where it is, without a server."""


class _TrackersRecord(TypedDict):
    version: Literal[1]


class TrackersRecord(_TrackersRecord, total=False):
    """The content of trackers.json: where the trackers of an attempt are found."""

    wandb: TrackerRecord
    mlflow: TrackerRecord
    tensorboard: TrackerRecord


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


# ---- what sbatch.sh leaves


class Notice(TypedDict):
    """Why Slurm ends the job of an attempt. Written once, by sbatch.sh."""

    version: Literal[1]
    time: float
    why: StopCause
    left_s: Optional[int]
    """Until the end of the job, as the controller said then; null where it has none or the controller did not say."""


# ---- what a node's watchdog leaves


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


# ---- result.json


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


# ---- node_check.json


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


# ---- gates.json


class GateOutcome(TypedDict):
    """What became of a program that had to pass before the ranks start."""

    name: str
    passed: bool
    reason: str
    """What it has measured, or why it has not passed."""
    bus_gb_s: Optional[float]
    """The average bus bandwidth in GB/s that it has printed; null where it has printed none."""
    min_bus_gb_s: Optional[float]
    """What was wanted; null: any."""


class GatesRecord(TypedDict):
    """The content of gates.json: the programs in their order, up to the first that has not passed."""

    version: Literal[1]
    time: float
    gates: list[GateOutcome]


# ---- next.json

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


# ---- the lease


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


# ---- the journal

StartEvent = Literal["submit_intent", "submit_unknown", "submit_refused", "submitted", "launched", "requeue"]
"""The events that say how a run was started, and what came of that."""

JournalEventName = Literal[StartEvent, "not_owner", "stop_requested", "cancelled", "cancel_failed"]
"""`cancelled` is written before anything is ended, `cancel_failed` where that did not succeed; the two cancel out."""


class StartedBy(TypedDict):
    """The launcher that started a run, and the process group of what it started."""

    pid: int
    start_ticks: Optional[int]
    group: int
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
    host: str


class JournalEvent(JournalValues):
    """One thing that the launcher was about to do or has done."""

    time: float
    event: JournalEventName
