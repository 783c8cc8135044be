"""The schemas of System, Test and Scenario files: keys that CloudAI refuses are refused here, too."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from launcher.cloudai.cmd_args import MegatronBridgeCmdArgs
from launcher.contract.values import nearest

MEGATRON_BRIDGE = "MegatronBridge"
"""The test template that this launcher runs."""

TEMPLATES = (
    *("AIDynamo", "Aiconfigurator", "BashCmd", "ChakraReplay", "DDLBTest", "DeepEP", "DynamoMocker", "Fio"),
    *("JaxToolboxGPT", "JaxToolboxGrok", "JaxToolboxNemotron", MEGATRON_BRIDGE, "MegatronRun", "MoEBenchmark"),
    *("NIXLBench", "NIXLKVBench", "NcclTest", "NeMoLauncher", "NeMoRun", "NixlEP", "NixlPerftest", "OSUBench"),
    *("Sleep", "SlurmContainer", "TritonInference", "UCCTest", "sglang", "vllm"),
)
"""CloudAI's test templates. Only one is run here; the files of the others are recognized."""

REPORTS = (
    *("per_test", "status", "dse", "tarball", "moe_benchmark_throughput", "nixl_bench_summary", "nixl_ep_comparison"),
    *("nccl_comparison", "osu_bench_comparison", "ai_dynamo_comparison", "vllm_comparison", "sglang_comparison"),
)
"""Names of CloudAI's scenario reports that a `reports` table may configure."""

ENABLED_REPORTS = ("per_test", "status", "dse", "tarball")
"""Those that are written unless a table says otherwise."""

AGENTS = {"grid_search": False, "random_search": True, "bayesian_optimization": True}
"""Agents that are available, with whether they run where the environment varies (env_params). CloudAI has the first."""

REWARDS = ("inverse", "negative", "identity")
"""Reward functions that are available."""

AI_DYNAMO_REWARDS = ("ai_dynamo_weighted_normalized", "ai_dynamo_ratio_normalized", "ai_dynamo_log_scale")
"""CloudAI's reward functions for another workload: they read three metrics that Megatron Bridge does not have."""

METRICS = ("default", "step-time", "tflops-per-gpu")
"""Metrics of a MegatronBridge run; `default` is the step time."""

EnvironmentValue = str | list[str]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GitRepo(_Strict):
    """A repository at one commit, branch or tag."""

    url: str
    commit: str
    init_submodules: bool = False
    installed_path: Path | None = None
    mount_as: str | None = None

    @property
    def directory_name(self) -> str:
        """Return the name of its directory below the install path, as CloudAI names it."""
        return f"{self.url.rstrip('/').rpartition('/')[2].replace('.git', '')}__{self.commit}"


class Nsys(_Strict):
    """How nsys is called."""

    enable: bool = True
    nsys_binary: str = "nsys"
    task: str = "profile"
    output: str | None = None
    sample: str | None = None
    trace: str | None = None
    force_overwrite: bool | None = None
    capture_range: str | None = None
    capture_range_end: str | None = None
    cuda_graph_trace: str | None = None
    gpu_metrics_devices: str | None = None
    extra_args: list[str] = []


class Predictor(_Strict):
    """A program that predicts a result (CloudAI uses it for NCCL tests only)."""

    git_repo: GitRepo
    venv_path: Path | None = None
    project_subpath: Path | None = None
    dependencies_from_pyproject: bool = True
    bin_name: str | None = None


class TrainingReport(_Strict):
    """Which steps training_report.json leaves out of its statistics."""

    exclude_start_steps: Annotated[int, Field(ge=0)] = 5
    exclude_post_profiling_steps: Annotated[int, Field(ge=0)] = 2


class Rewards(_Strict):
    """Rewards of points that have no measured one."""

    constraint_failure: float = -1.0
    metric_failure: float = -1.0


class AgentConfig(_Strict):
    """Settings of an agent."""

    random_seed: int = 42
    start_action: Literal["random", "first"] = "random"
    rewards: Rewards = Field(default_factory=Rewards)


class Encoding(_Strict):
    """How an agent observes a drawn value."""

    type: Literal["categorical"] = "categorical"


class EnvParam(_Strict):
    """That a list in cmd_args is drawn from by the environment, and with which weights."""

    weights: list[float] | None = None
    encoding: Encoding = Field(default_factory=Encoding)

    @field_validator("weights")
    @classmethod
    def _probabilities(cls, weights: list[float] | None) -> list[float] | None:
        if weights is None:
            return None
        for weight in weights:
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"weights are finite and not negative, and {weight} is not")
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"weights add up to 1, and these to {sum(weights)}")
        return weights


class Dependency(_Strict):
    """That a test waits for another one, or ends with it."""

    type: Literal["end_post_comp", "start_post_init", "start_post_comp"]
    id: str


class ReportSettings(BaseModel):
    """Whether a report is written. Comparisons of other workloads have further keys."""

    model_config = ConfigDict(extra="allow")

    enable: bool = False


class SystemGroup(_Strict):
    """A named group of nodes."""

    name: str
    nodes: list[str]


class Partition(_Strict):
    """A partition with its groups."""

    name: str
    groups: list[SystemGroup] = []


class DataRepository(BaseModel):
    """Where CloudAI uploads results; this launcher does not."""

    endpoint: str
    verify_certs: bool = True


def _check_reports(reports: dict[str, ReportSettings] | None) -> dict[str, ReportSettings] | None:
    for name in reports or {}:
        if name not in REPORTS:
            raise ValueError(f"there is no report {name!r}{_near(name, REPORTS)}; known: {', '.join(REPORTS)}")
    return reports


def _near(name: str, known: "tuple[str, ...] | list[str]") -> str:
    near = nearest(name, known, count=1)
    return f"; did you mean {near[0]}?" if near else ""


class System(_Strict):
    """A Slurm cluster as CloudAI describes it."""

    name: str
    scheduler: Literal["slurm"]
    install_path: Path
    output_path: Path
    hf_home_path: Path | None = None
    global_env_vars: dict[str, Any] = {}
    monitor_interval: int = 60
    default_partition: str
    partitions: list[Partition]
    account: str | None = None
    distribution: str | None = None
    mpi: str = "pmix"
    gpus_per_node: int | None = None
    ntasks_per_node: int | None = None
    cache_docker_images_locally: bool = False
    extra_srun_args: str | None = None
    extra_sbatch_args: list[str] = []
    extra_transient_status_errors: list[str] = []
    status_retry_pause_seconds: Annotated[int, Field(ge=0)] = 10
    supports_gpu_directives_cache: bool | None = None
    container_mount_home: bool = False
    data_repository: DataRepository | None = None
    reports: dict[str, ReportSettings] | None = None

    _check = field_validator("reports")(_check_reports)

    @field_validator("extra_transient_status_errors")
    @classmethod
    def _not_blank(cls, patterns: list[str]) -> list[str]:
        if any(not pattern.strip() for pattern in patterns):
            raise ValueError("entries are not blank")
        return patterns


class _Agent(BaseModel):
    """What Test and Scenario say alike about the agent."""

    @field_validator("agent", check_fields=False)
    @classmethod
    def _known_agent(cls, agent: str | None) -> str | None:
        if agent is None or agent in AGENTS:
            return agent
        if agent in plugin_agents():
            raise ValueError(
                f"agent {agent!r} is a plug-in of the entry-point group cloudai.agents, which needs CloudAI itself; "
                f"available: {', '.join(AGENTS)}"
            )
        raise ValueError(f"there is no agent {agent!r}{_near(agent, tuple(AGENTS))}; available: {', '.join(AGENTS)}")

    @field_validator("agent_config", check_fields=False)
    @classmethod
    def _valid_agent_config(cls, settings: dict[str, Any] | None) -> dict[str, Any] | None:
        if settings is not None:
            try:
                AgentConfig.model_validate(settings)
            except ValidationError as error:
                raise ValueError(_nested(error)) from None
        return settings


def _nested(error: ValidationError) -> str:
    """Return the problems of a part that is validated by itself, each with its key."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False)
    )


class GenericTest(_Agent):
    """A test of any template, which may have fields and metrics of its own."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str
    test_template_name: str
    cmd_args: Any
    dse_excluded_args: list[str] = []
    extra_env_vars: dict[str, EnvironmentValue] = {}
    extra_cmd_args: dict[str, str] = {}
    extra_container_mounts: list[str] = []
    git_repos: list[GitRepo] = []
    nsys: Nsys | None = None
    predictor: Predictor | None = None
    training_report: TrainingReport | None = None
    agent: str = "grid_search"
    agent_steps: int = 1
    agent_metrics: list[str] = ["default"]
    agent_reward_function: str = "inverse"
    agent_config: dict[str, Any] | None = None
    env_params: dict[str, EnvParam] = {}

    @field_validator("test_template_name")
    @classmethod
    def _known_template(cls, name: str) -> str:
        if name not in TEMPLATES:
            raise ValueError(f"there is no test template {name!r}{_near(name, TEMPLATES)}")
        return name

    @field_validator("dse_excluded_args", mode="before")
    @classmethod
    def _prefixes(cls, value: Any) -> Any:
        return excluded_prefixes(value)

    @property
    def settings(self) -> AgentConfig:
        """Return the agent's settings with their defaults."""
        return AgentConfig.model_validate(self.agent_config or {})

    @property
    def draw_seed(self) -> int:
        """Return the seed of what the environment draws: 0 where the file states none, as in CloudAI."""
        return int((self.agent_config or {}).get("random_seed", 0))

    def is_excluded(self, path: str) -> bool:
        """Return whether lists below this path of cmd_args are values, not axes."""
        full = f"cmd_args.{path}"
        return any(full == prefix or full.startswith(f"{prefix}.") for prefix in self.dse_excluded_args)


def excluded_prefixes(value: Any) -> Any:
    """Return the prefixes of dse_excluded_args. Raises ValueError for one that is not below cmd_args."""
    if value is None:
        return []
    prefixes = [value] if isinstance(value, str) else value
    if not isinstance(prefixes, list):
        return value
    stripped = list[Any]()
    for prefix in prefixes:
        if not isinstance(prefix, str):
            return value
        text = prefix.strip()
        if not text.startswith("cmd_args."):
            raise ValueError(f"{text!r} does not begin with 'cmd_args.'")
        if text.endswith(".") or ".." in text:
            raise ValueError(f"{text!r} has an empty part")
        stripped.append(text)
    return stripped


class Test(GenericTest):
    """A MegatronBridge test."""

    __test__ = False

    model_config = ConfigDict(extra="forbid")

    cmd_args: MegatronBridgeCmdArgs
    nemo_run_repo: GitRepo = GitRepo(url="https://github.com/NVIDIA-NeMo/Run.git", commit="main")
    git_repos: Annotated[list[GitRepo], Field(validate_default=True)] = []

    @field_validator("git_repos")
    @classmethod
    def _has_bridge(cls, repos: list[GitRepo]) -> list[GitRepo]:
        if bridge_repo(repos) is None:
            raise ValueError(
                "MegatronBridge needs its repository pinned here: url containing 'Megatron-Bridge', or "
                "mount_as = '/opt/Megatron-Bridge'"
            )
        return repos

    @field_validator("agent_reward_function")
    @classmethod
    def _known_reward(cls, reward: str) -> str:
        if reward in REWARDS:
            return reward
        if reward in AI_DYNAMO_REWARDS:
            raise ValueError(f"{reward!r} reads three metrics of AI Dynamo; for Megatron Bridge: {', '.join(REWARDS)}")
        raise ValueError(f"there is no reward function {reward!r}{_near(reward, REWARDS)}; known: {', '.join(REWARDS)}")

    @field_validator("agent_metrics")
    @classmethod
    def _known_metrics(cls, metrics: list[str]) -> list[str]:
        if not metrics:
            raise ValueError("at least one metric is needed")
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(f"there is no metric {metric!r}{_near(metric, METRICS)}; known: {', '.join(METRICS)}")
        return metrics

    @model_validator(mode="after")
    def _valid_env_params(self) -> "Test":
        for name, spec in self.env_params.items():
            _check_env_param(name, spec, self.cmd_args)
        return self

    @property
    def bridge(self) -> GitRepo:
        """Return the repository of Megatron Bridge."""
        found = bridge_repo(self.git_repos)
        assert found is not None  # noqa: S101 - the field's validator has refused a test without
        return found


def bridge_repo(repos: list[GitRepo]) -> GitRepo | None:
    """Return the first repository that is Megatron Bridge's."""
    for repo in repos:
        if "Megatron-Bridge" in repo.url or (repo.mount_as or "").rstrip("/") == "/opt/Megatron-Bridge":
            return repo
    return None


def _check_env_param(name: str, spec: EnvParam, cmd_args: MegatronBridgeCmdArgs) -> None:
    fields = type(cmd_args).model_fields
    if name not in fields:
        raise ValueError(f"env_params.{name}: cmd_args has no field {name!r}{_near(name, tuple(fields))}")
    value = getattr(cmd_args, name)
    if isinstance(value, dict):
        raise ValueError(f"env_params.{name}: cmd_args.{name} is a table, and only a list can be drawn from")
    if not isinstance(value, list):
        raise ValueError(f"env_params.{name}: cmd_args.{name} is one value, and only a list can be drawn from")
    if len(value) < 2:
        what = "is an empty list" if not value else "has a single value"
        raise ValueError(f"env_params.{name}: cmd_args.{name} {what}: two or more are needed to draw from")
    if spec.weights is not None and len(spec.weights) != len(value):
        raise ValueError(f"env_params.{name}: {len(spec.weights)} weights, and cmd_args.{name} has {len(value)} values")


class TestEntry(_Agent):
    """One of a scenario's [[Tests]]: a test by name with what it changes, or a whole test."""

    __test__ = False

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    test_name: str | None = None
    num_nodes: int | list[int] | None = None
    nodes: list[str] = []
    exclude_nodes: list[str] = []
    weight: int = 0
    iterations: int = 1
    sol: float | None = None
    ideal_perf: float = 1.0
    time_limit: str | None = None
    dependencies: list[Dependency] = []
    extra_srun_args: str | None = None

    name: str | None = None
    description: str | None = None
    test_template_name: str | None = None
    cmd_args: dict[str, Any] | None = None
    dse_excluded_args: list[str] | None = None
    extra_env_vars: dict[str, EnvironmentValue] | None = None
    extra_container_mounts: list[str] | None = None
    git_repos: list[GitRepo] | None = None
    nsys: Nsys | None = None
    agent: str | None = None
    agent_steps: int | None = None
    agent_metrics: list[str] = ["default"]
    agent_reward_function: str | None = None
    agent_config: dict[str, Any] | None = None

    @field_validator("iterations")
    @classmethod
    def _at_least_one(cls, number: int) -> int:
        if number < 1:
            raise ValueError(f"{number} is not at least 1")
        return number

    @field_validator("num_nodes")
    @classmethod
    def _positive(cls, number: int | list[int] | None) -> int | list[int] | None:
        if number == [] or any(each < 1 for each in (number if isinstance(number, list) else [number or 1])):
            raise ValueError(f"{number} is not a number of nodes")
        return number

    @field_validator("time_limit")
    @classmethod
    def _time_limit(cls, text: str | None) -> str | None:
        if text is not None:
            slurm_time_limit(text)
        return text

    @field_validator("dse_excluded_args", mode="before")
    @classmethod
    def _prefixes(cls, value: Any) -> Any:
        return excluded_prefixes(value)

    @model_validator(mode="after")
    def _base_or_whole(self) -> "TestEntry":
        if self.test_name is not None:
            if self.test_template_name:
                raise ValueError("test_template_name is set by the test of test_name, and cannot be stated beside it")
            return self
        missing = [key for key in ("test_template_name", "name", "description") if getattr(self, key) is None]
        if missing:
            raise ValueError(f"without test_name the entry is a whole test, and lacks {', '.join(missing)}")
        if self.test_template_name not in TEMPLATES:
            name = str(self.test_template_name)
            raise ValueError(f"there is no test template {name!r}{_near(name, TEMPLATES)}")
        return self

    def of_the_test(self) -> dict[str, Any]:
        """Return what the entry states of the test itself, to be merged over the test that it names."""
        names = ("name", "description", "test_template_name", "agent", "agent_steps", "agent_reward_function",
                 "agent_config", "dse_excluded_args", "extra_container_mounts", "extra_env_vars", "cmd_args",
                 "git_repos", "nsys", "agent_metrics")  # fmt: skip
        stated = self.model_dump(exclude_unset=True, include=set(names))
        return {key: value for key, value in stated.items() if value is not None}


class Scenario(_Strict):
    """A scenario: tests that are run together. A hook is a scenario that another one names."""

    name: str
    sol_path: str | None = None
    job_status_check: bool = True
    tests: Annotated[list[TestEntry], Field(alias="Tests", min_length=1)]
    pre_test: str | None = None
    post_test: str | None = None
    reports: dict[str, ReportSettings] = {}

    _check = field_validator("reports")(_check_reports)

    @field_validator("tests")
    @classmethod
    def _ids(cls, tests: list[TestEntry]) -> list[TestEntry]:
        ids = [test.id for test in tests]
        for number, test in enumerate(tests):
            if test.id in ids[:number]:
                raise ValueError(f"two tests have the id {test.id!r}")
            for needed in test.dependencies:
                if needed.id == test.id:
                    raise ValueError(f"test {test.id!r} depends on itself")
                if needed.id not in ids:
                    near = _near(needed.id, ids)
                    raise ValueError(f"test {test.id!r} depends on {needed.id!r}, which is not a test{near}")
        return tests


def slurm_time_limit(text: str) -> str:
    """Return a time limit as Slurm reads it. Raises ValueError for any other text.

    `30m`, `2h`, `1d` and 60 minutes in `00:60:00`, which CloudAI takes, too, are written in Slurm's way.
    """
    from launcher.config.texts import slurm_time

    if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text, re.ASCII | re.IGNORECASE):
        return _clock(int(found[1]) * _SECONDS[found[2].lower()])
    if found := re.fullmatch(r"(?:([0-9]{1,4})-)?([0-9]{1,6}):([0-9]{1,6}):([0-9]{1,6})", text, re.ASCII):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        return text if max(minutes, seconds) < 60 and (not days or hours < 24) else _clock(total)
    return slurm_time(text)


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}"


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def plugin_agents() -> list[str]:
    """Return the names of agents that installed packages add to CloudAI."""
    from importlib.metadata import entry_points

    return sorted(found.name for found in entry_points(group="cloudai.agents"))
