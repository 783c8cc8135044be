"""The request of a run, argv.json: what each rank is given."""

from typing import Any, Literal, Optional, TypedDict, Union, final

from launcher.contract.records.checkpoints import VerifyMode


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
