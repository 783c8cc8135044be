"""`LauncherExecutor`: the tasks of a NeMo-Run experiment are runs of the launcher, each with its plan and its records.

NeMo-Run finds an executor's scheduler in a table of classes and among torchx's entry points, and knows by lists of
classes what an executor can do. Importing this module adds LauncherExecutor to the table and the lists. An entry point
would reach every torchx of the environment, which drops its own schedulers where it finds one.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nemo_run.core.execution.base import Executor
from nemo_run.core.execution.launcher import Launcher, Torchrun
from nemo_run.core.packaging.base import Packager
from nemo_run.run import experiment as experiments
from nemo_run.run.torchx_backend import runner as runners
from nemo_run.run.torchx_backend.schedulers import api as schedulers
from torchx.schedulers.api import AppDryRunInfo, DescribeAppResponse, ListAppResponse, Scheduler, Stream, filter_regex
from torchx.specs import AppDef, AppState, ReplicaStatus, Role, RoleStatus

import launcher
from launcher._util.errors import ConfigError, RequestError
from launcher.nemo_run.task import TranslatedTask, translate_task

_SCHEDULER = "megatron_launcher"
_DEPENDENCIES = ("after", "afterany", "afterok", "afternotok")


@dataclasses.dataclass(kw_only=True)
class LauncherExecutor(Executor):  # type: ignore[misc]
    """Runs each task of an experiment as a batch run of the launcher; dependencies are Slurm's.

    The fields are options of `launcher submit`, with the same defaults from profile and configuration files. Nothing is
    packaged by NeMo-Run: what travels is the script with its local imports, and what `ship` names.
    """

    cluster: str | None = None
    """The cluster profile."""
    nodes: int = 1
    gpus_per_node: int | None = None
    """Ranks on each node. Default: one for a script or a function, the profile's for a training."""
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    image: str | None = None
    mounts: list[str] = dataclasses.field(default_factory=list)
    ship: list[str] = dataclasses.field(default_factory=list)
    """Files and directories that scripts and functions need beside them, under their relative paths."""
    run_root: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further options, by the names of `launcher.submit`."""

    dependencies: list[str] = dataclasses.field(default_factory=list)
    """Set by NeMo-Run when a task is launched: handles of those that it waits for."""
    dependency_type: str = "afterok"

    job_name: str = dataclasses.field(init=False, default="")

    def assign(self, exp_id: str, exp_dir: str, task_id: str, task_dir: str) -> None:
        """Take a place in an experiment."""
        self.experiment_id = exp_id
        self.experiment_dir = exp_dir
        self.job_name = task_id
        self.job_dir = os.path.join(exp_dir, task_dir)  # noqa: PTH118 - NeMo-Run's fields are texts

    def nnodes(self) -> int:
        """Return the number of nodes."""
        return self.nodes

    def nproc_per_node(self) -> int:
        """Return the number of ranks on a node, where it is stated."""
        return self.gpus_per_node or 1

    def info(self) -> str:
        """Return the line of NeMo-Run's status table."""
        return f"LauncherExecutor on {self.cluster or 'the default cluster'}"

    def request(self, task: Any, *, dependents: bool = False) -> tuple[str | None, tuple[str, ...], dict[str, Any]]:
        """Return the recipe, the assignments and the options of `launcher.submit` for a task.

        Raises RequestError for what the launcher does not do, rather than leaving it out.
        """
        self.require_supported()
        found = translate_task(task, self.job_name, Path(self.job_dir) / "launcher", ship=self.ship)
        if found.left_out:
            raise RequestError(f"task {self.job_name}: {'; '.join(found.left_out)}")
        options = self.stated(found)
        if options.get("keep_going") and (dependents or self.dependencies):
            raise ConfigError(
                "the next attempt of a run that keeps going may be another job, of which Slurm's dependencies do not "
                "know",
                where="keep_going",
                hint="Leave the dependency or keep_going out.",
            )
        recipe = options.pop("recipe", None)
        return recipe, tuple(options.pop("assignments", ())), options

    def stated(self, found: TranslatedTask) -> dict[str, Any]:
        """Return the keys of a job file for a translated task: its own, stronger than them the executor's."""
        names = ("cluster", "nodes", "gpus_per_node", "time", "partition", "account", "qos", "image", "run_root")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        merged = {**found.stated, **own, **{key: value for key, value in self.options.items() if key != "env"}}
        if self.mounts:
            merged["mounts"] = [*self.mounts, *self.options.get("mounts", ())]
        env = {**self.env_vars, **dict(each.split("=", 1) for each in found.stated.get("env", ()))}
        more = self.options.get("env", ())
        stated = [
            *(f"{key}={value}" for key, value in env.items()),
            *(_pairs(more) if isinstance(more, dict) else more),
        ]
        if stated:
            merged["env"] = stated
        merged |= {key: value for key, value in nsys_options(self.get_launcher()).items() if key not in self.options}
        name = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in self.job_name).lstrip("-._")
        merged.setdefault("name", name[:64] or "task")
        if self.dependencies:
            merged["sbatch"] = {**merged.get("sbatch", {}), **_dependency(self.dependencies, self.dependency_type)}
        return merged

    def require_supported(self) -> None:
        """Raise ConfigError for a field that the launcher would leave out."""
        chosen = self.get_launcher()
        # Torchrun starts a process for each GPU and sets its rank, as the launcher does by itself.
        if type(chosen).__name__ not in ("Launcher", "Torchrun"):
            raise ConfigError(
                f"the launcher does not start ranks by {type(chosen).__name__}",
                where="launcher",
                hint="Leave it out: each rank is started with RANK, WORLD_SIZE and MASTER_ADDR, and hangs are found.",
            )
        if isinstance(chosen, Torchrun) and self.gpus_per_node is None:
            raise ConfigError("torchrun's processes are the ranks of a node: state gpus_per_node", where="launcher")
        if type(self.packager) is not Packager:
            raise ConfigError(
                f"{type(self.packager).__name__} is not used: files travel by ship=[...], under their relative paths",
                where="packager",
            )
        if self.retries:
            raise ConfigError(
                "retries starts a failed job again from the beginning",
                where="retries",
                hint='Continue it from its checkpoint instead: options={"keep_going": True}.',
            )
        if self.dependency_type not in _DEPENDENCIES:
            raise ConfigError(
                f"{self.dependency_type!r} is not one of {', '.join(_DEPENDENCIES)}", where="dependency_type"
            )


def nsys_options(chosen: Launcher) -> dict[str, Any]:
    """Return the keys of a job file for what a launcher of NeMo-Run states of nsys; files lie where the run is."""
    if not chosen.nsys_profile:
        return {}
    default, found = Launcher(), dict[str, Any](nsys=True)
    if sorted(chosen.nsys_trace) != sorted(default.nsys_trace):
        found["nsys_trace"] = ",".join(chosen.nsys_trace)
    if more := [each for each in chosen.nsys_extra_args if each not in default.nsys_extra_args]:
        found["nsys_args"] = more
    if chosen.nsys_gpu_metrics:
        found["gpu_metrics"] = True
    return found


def _pairs(env: dict[str, str | None]) -> Iterator[str]:
    for name, value in env.items():
        yield name if value is None else f"{name}={value}"


def _dependency(handles: Sequence[str], kind: str) -> dict[str, str | bool]:
    """Return sbatch's options for the jobs of these handles; where one fails, Slurm removes the waiting job."""
    jobs = []
    for handle in handles:
        run = _run_of(handle.rpartition("/")[2])
        job = run.status().job if run else None
        if job is None:
            raise RequestError(f"{handle} has no job to wait for")
        jobs.append(job)
    return {"dependency": f"{kind}:{':'.join(jobs)}", "kill-on-invalid-dep": "yes"}


def _run_of(app_id: str) -> "launcher.Run | None":
    """Return the run of a handle's last part, its run id; None where it is gone."""
    try:
        return launcher.Run.find(app_id)
    except RequestError:
        return None


_STATES = {
    "prepared": AppState.SUBMITTED,
    "unsubmitted": AppState.UNSUBMITTED,
    "queued": AppState.PENDING,
    "starting": AppState.RUNNING,
    "running": AppState.RUNNING,
    "stopping": AppState.RUNNING,
    "suspended": AppState.RUNNING,
    "finished": AppState.SUCCEEDED,
    "stopped": AppState.CANCELLED,
    "cancelled": AppState.CANCELLED,
    "failed": AppState.FAILED,
    "diverged": AppState.FAILED,
    "refused": AppState.FAILED,
    "lost": AppState.FAILED,
    "unknown": AppState.UNKNOWN,
}
"""torchx's words for the launcher's phases. A run that stopped early, after a checkpoint, has not succeeded."""


class LauncherScheduler(schedulers.SchedulerMixin, Scheduler):  # type: ignore[misc]
    """How NeMo-Run submits, asks about and cancels tasks of LauncherExecutor. An app's id is the id of its run."""

    def __init__(self, session_name: str, experiment: Any = None, **_: Any) -> None:
        super().__init__(_SCHEDULER, session_name)
        self.experiment = experiment

    def _validate(self, app: AppDef, scheduler: str) -> None:
        """Accept every role: the plan checks what it asks for."""

    def _submit_dryrun(self, app: AppDef, cfg: LauncherExecutor) -> AppDryRunInfo[Any]:  # noqa: ARG002
        """Make the plan of a task, so that every wrong task is refused before the first is submitted."""
        job = self._job_of(cfg)
        if cfg.dependencies:  # a plan for their jobs is made when they have some
            raise ConfigError("an experiment sets the dependencies of its tasks", where="dependencies")
        waited_for = any(cfg.job_name in each.dependencies for each in self.experiment.jobs)
        if job.dependencies and cfg.options.get("keep_going"):
            waited_for = True
        recipe, assignments, options = cfg.request(job.task, dependents=waited_for)
        plan = launcher.plan(recipe, *assignments, command="submit", **options)
        script = plan.scripts["sbatch.sh"]
        Path(cfg.experiment_dir, f"{cfg.job_name}_sbatch.sh").write_text(script)
        return AppDryRunInfo((cfg, job.task), lambda _: script)

    def _job_of(self, executor: LauncherExecutor) -> Any:
        experiment = self.experiment or experiments._current_experiment.get(None)
        jobs = experiment.jobs if experiment else ()
        found = next((job for job in jobs if getattr(job, "executor", None) is executor), None)
        if found is None:
            raise RequestError("LauncherExecutor runs tasks of a run.Experiment")
        self.experiment = experiment
        return found

    def schedule(self, dryrun_info: AppDryRunInfo[Any]) -> str:
        """Submit a task once, however often it is tried, and return its run id."""
        executor, task = dryrun_info.request
        recipe, assignments, options = executor.request(task)
        return launcher.submit(recipe, *assignments, once=_key(executor), **options).run_id

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """Return how a run is doing; None where there is none."""
        run = _run_of(app_id)
        if run is None:
            return None
        status = run.status()
        state = _STATES[status.phase.value]
        replicas = [ReplicaStatus(id=0, role=run.name, state=state, hostname="")]
        return DescribeAppResponse(
            app_id=app_id,
            state=state,
            msg=status.detail,
            roles=[Role(name=run.name, image="", num_replicas=1)],
            roles_statuses=[RoleStatus(run.name, replicas)],
        )

    def list(self) -> list[ListAppResponse]:
        """Return the runs below the run root of this directory."""
        found = ((run.run_id, run.status().phase.value) for run in launcher.runs())
        return [ListAppResponse(app_id=run_id, state=_STATES[phase]) for run_id, phase in found]

    def _cancel_existing(self, app_id: str) -> None:
        if (run := _run_of(app_id)) is not None:
            run.cancel()

    def log_iter(
        self,
        app_id: str,
        role_name: str,  # noqa: ARG002
        k: int = 0,  # noqa: ARG002 - torchx's method has these
        regex: str | None = None,
        since: datetime | None = None,  # noqa: ARG002
        until: datetime | None = None,  # noqa: ARG002
        should_tail: bool = False,
        streams: Stream | None = None,  # noqa: ARG002
    ) -> Iterable[str]:
        """Return the lines of the rank that matters: the first that failed, else rank 0."""
        lines = _followed(app_id) if should_tail else _lines(app_id)
        return filter_regex(regex, lines) if regex else lines


def _lines(app_id: str) -> Iterator[str]:
    run = _run_of(app_id)
    try:
        text = run.logs() if run else ""
    except RequestError:  # it has not begun
        text = ""
    return iter(text.splitlines(keepends=True))


def _followed(app_id: str, poll_s: float = 2.0) -> Iterator[str]:
    shown = 0
    while True:
        run = _run_of(app_id)
        over = run is None or run.status().phase.over
        lines = [*_lines(app_id)]
        yield from lines[shown:]
        shown = max(shown, len(lines))
        if over:
            return
        time.sleep(poll_s)


def _key(executor: LauncherExecutor) -> str:
    """Return the key of a task's submission, which no other task has."""
    text = f"nemo-run {executor.experiment_id} {executor.job_name}"
    is_key = len(text) <= 200 and text.isprintable()
    return text if is_key else f"nemo-run {hashlib.sha256(text.encode()).hexdigest()}"


def create_scheduler(session_name: str, **parameters: Any) -> LauncherScheduler:
    """Return the scheduler of a runner."""
    return LauncherScheduler(session_name, **parameters)


def _register() -> None:
    schedulers.EXECUTOR_MAPPING[LauncherExecutor] = _SCHEDULER
    schedulers.REVERSE_EXECUTOR_MAPPING[_SCHEDULER] = LauncherExecutor
    known = experiments.Experiment
    for name in ("_PARALLEL_SUPPORTED_EXECUTORS", "_DETACH_SUPPORTED_EXECUTORS", "_DEPENDENCY_SUPPORTED_EXECUTORS"):
        setattr(known, name, (*getattr(known, name), LauncherExecutor))
    factories = runners.get_scheduler_factories
    runners.get_scheduler_factories = lambda: {**factories(), _SCHEDULER: create_scheduler}


_register()
