"""A Python function as a Slurm job, through submitit: for work that suits a compute node, such as image builds.

Training jobs use the launcher's own scripts instead. submitit's watcher needs accounting, so the state comes from
`launcher.slurm`; submitit does the pickle, the batch script and the result.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError, OutsideError, PrerequisiteError, SlurmError
from launcher._util.ownership import is_shared, require_trusted
from launcher.backends.process_environment import SLURM_CLIENT
from launcher.config.cluster import Cluster
from launcher.config.texts import slurm_time
from launcher.scripts.render import directive

_TIME_LIMIT_MIN = 240
"""By default: a training image has 10 to 20 GB, and registries are slow."""

# Directives of a profile that describe a training node's share, not a site's rules: a task asks for its own.
_NOT_FOR_TASKS = frozenset(
    {"gpus-per-node", "gpus", "gres", "gpus-per-task", "ntasks", "ntasks-per-node", "nodes", "cpus-per-task"}
    | {"cpus-per-gpu", "mem-per-gpu", "segment", "output", "error", "open-mode", "job-name", "comment", "signal"}
)


@dataclass(frozen=True)
class TaskJob:
    """A task that has been submitted."""

    job: str
    folder: Path
    log: Path
    """The output of the function and of the programs that it ran."""
    result: Path
    """Exists once the function has returned or raised."""


def parameters(
    cluster: Cluster, *, name: str, cpus: int | None = None, directives: Mapping[str, bool | int | str] | None = None
) -> dict[str, Any]:
    """Return submitit's parameters of a one-task job; `directives` are the user's, by sbatch's long names.

    Raises PrerequisiteError for a profile without Slurm.
    """
    if cluster.scheduler != "slurm":
        raise PrerequisiteError(
            f"the cluster profile {cluster.name!r} has no Slurm to run a job on",
            hint="Leave --in-job-on out to run it on this machine.",
        )
    site: dict[str, bool | int | str] = {
        key: value for key, value in cluster.directives.items() if key not in _NOT_FOR_TASKS and value is not False
    }
    site |= {key: value for key in ("partition", "account", "qos") if (value := getattr(cluster, key)) is not None}
    site |= {"time": _TIME_LIMIT_MIN, "nodes": 1, "ntasks-per-node": 1}
    if cpus is not None:
        site["cpus-per-task"] = cpus
    for key, value in (directives or {}).items():
        if value is False:
            site.pop(key, None)
        else:
            site[key] = value
    for key, value in site.items():
        directive(value)  # refuses what sbatch cannot read
        if isinstance(value, str):
            site[key] = value.replace("\\", "\\\\")  # as sbatch reads it in a script, see there
    if isinstance(limit := site["time"], str):
        _check_time(limit)
    return {
        "job_name": name,
        # submitit's own default names a wckey, which clusters with wckeys refuse.
        "wckey": None,
        "stderr_to_stdout": True,
        # The time for cleaning up between submitit's signal and the end of the time limit.
        "signal_delay_s": 60,
        "additional_parameters": site,
    }


def _check_time(limit: str) -> None:
    try:
        slurm_time(limit)
    except ValueError as error:
        raise ConfigError(str(error), where="--time") from None


def submit_task(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    folder: Path,
    parameters: Mapping[str, Any],
    python: str | None = None,
) -> TaskJob:
    """Submit `function(*arguments)`; both are pickled. `python` runs it on the node, by default this interpreter.

    `folder`, a new directory, has to be on a file system that the node sees. Raises SlurmError with sbatch's words,
    OutsideError where submitit is not installed, RequestError where another user could replace the folder.
    """
    (task,) = submit_tasks(function, [arguments], folder=folder, parameters=parameters, python=python)
    return task


def submit_tasks(
    function: Callable[..., Any],
    calls: Sequence[Sequence[Any]],
    *,
    folder: Path,
    parameters: Mapping[str, Any],
    python: str | None = None,
) -> list[TaskJob]:
    """Submit one call of `function` for each of `calls`, its arguments: one job, or the tasks of one array.

    Everything else is as for `submit_task`.
    """
    try:
        import submitit
    except ImportError:
        raise OutsideError(
            "a task on a compute node needs submitit, which is not installed",
            hint="Install the launcher with its extra `tasks` (launcher help install), or leave --in-job-on out.",
        ) from None
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder.parent.mkdir(parents=True, exist_ok=True)
    # What lies there is unpickled on the node and here.
    require_trusted(folder.parent, shared=is_shared(folder.parent.parent), hint="Remove it, or choose another place.")
    folder.mkdir()
    try:
        executor = submitit.SlurmExecutor(folder=folder, python=shlex.quote(python) if python else None)
        executor.update_parameters(**parameters)
        with _outside_of_allocations():
            if len(calls) == 1:
                jobs = [executor.submit(function, *calls[0])]
            else:
                jobs = executor.map_array(function, *zip(*calls, strict=True))
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise SlurmError(f"the task was not submitted: {_words(error)}") from error
    return [TaskJob(job.job_id, folder, Path(job.paths.stdout), Path(job.paths.result_pickle)) for job in jobs]


def outcome(task: TaskJob) -> Any:
    """Return what the function returned. Raises OutsideError with the traceback's last line if it raised."""
    from submitit.core.utils import pickle_load

    try:
        kind, value = pickle_load(task.result)
    except (OSError, EOFError) as error:
        raise OutsideError(f"job {task.job} left no result: {error}", where=str(task.log)) from error
    if kind != "success":
        last = str(value).strip().splitlines()[-1]
        raise OutsideError(f"the task of job {task.job} failed: {last}", where=str(task.log))
    return value


@contextlib.contextmanager
def _outside_of_allocations() -> Iterator[None]:
    """Hide the allocation that this shell may be in: its variables must not reach the job as its own.

    submitit's `clean_env` does so too, but hides SLURM_CONF with them, by which sbatch finds the cluster.
    """
    allocation = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    hidden = {n: v for n, v in os.environ.items() if n.startswith(allocation) and n not in SLURM_CLIENT}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _words(error: Exception) -> str:
    """Return sbatch's message from submitit's exception: the last line with text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("sbatch:", "srun:"))]
    return (said or lines or [type(error).__name__])[-1]
