"""Training data: text to Megatron's files of token ids, here or as an array of jobs, and a look at such files."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.errors import OutsideError, RequestError
from launcher._util.user_paths import user_path
from launcher.api.locate import find_cluster
from launcher.api.progress import Progress
from launcher.api.task_job import TaskJobOptions, perform_in_array, perform_program
from launcher.backends import stack_program
from launcher.backends.stack_program import StackProgram
from launcher.contract import preparation
from launcher.contract.preparation import InspectionRequest, PreparationRequest

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster

_LOOK_S = 2.0

_ATTEMPTS = 3
"""How many arrays are submitted before shards that are still missing are an error."""


def prepare(
    request: PreparationRequest,
    progress: Progress,
    *,
    tasks: int = 1,
    python: str | None = None,
    job: TaskJobOptions | None = None,
) -> dict[str, Any]:
    """Prepare data and return the manifest of the result, with `data`, what `data=` takes.

    The request's paths are relative to the current directory. `tasks` is the size of the array on `job`'s cluster; each
    task makes as many shards at once as it has CPUs. What a killed task leaves undone is submitted again. Raises
    RequestError for a request that cannot be carried out, OutsideError where shards are missing at the end, SlurmError.
    """
    cluster, host = find_cluster(job.cluster if job else None)
    request = replace(
        request,
        source=_absolute(host.directory, request.source),
        target=_absolute(host.directory, request.target),
        tokenizer=_absolute(host.directory, request.tokenizer),
    )
    _require_apart(request)
    if job is not None:
        _in_array(replace(request, processes=job.cpus), progress, tasks, python, job, cluster)
        request = replace(request, work=False)
    return perform_program(
        _program(request),
        python=python,
        job=job,
        cluster=cluster,
        name="data",
        tasks=_tasks(request),
        progress=progress,
    )


def inspect(request: InspectionRequest, progress: Progress, *, python: str | None = None) -> dict[str, Any]:
    """Return what files of token ids hold; `ok` says whether nothing is wrong. Raises as `prepare` does."""
    cluster, host = find_cluster()
    tokenizer = request.tokenizer and _absolute(host.directory, request.tokenizer)
    request = replace(request, path=_absolute(host.directory, request.path), tokenizer=tokenizer)
    return perform_program(
        StackProgram("--data", request.to_json(), "the inspection"),
        python=python,
        job=None,
        cluster=cluster,
        name="data",
        tasks=Path(request.path).parent,
        progress=progress,
    )


def default_processes() -> int:
    """Return how many shards are made at once on this machine: one for each CPU that this process may use."""
    return len(os.sched_getaffinity(0))


def _in_array(
    request: PreparationRequest,
    progress: Progress,
    tasks: int,
    python: str | None,
    job: TaskJobOptions,
    cluster: "Cluster",
) -> None:
    """Make all shards in arrays of jobs. Raises OutsideError where some are missing after the last one."""
    target = Path(request.target)
    parts, watcher = list(range(tasks)), _Watcher(target, progress)
    for attempt in range(_ATTEMPTS):
        programs = [_program(replace(request, part=part, parts=tasks, finish=False)) for part in parts]
        if attempt:
            progress.warn(f"shards are missing; the tasks {', '.join(map(str, parts))} are submitted again")
        progress.stage("tokenizing")
        perform_in_array(
            stack_program.perform,
            [(program, python or cluster.python) for program in programs],
            job=job,
            cluster=cluster,
            name="data",
            tasks=_tasks(request),
            progress=progress,
            tick=watcher.tick,
        )
        plan = preparation.read_plan(target)
        missing = preparation.missing_shards(target, plan) if plan else None
        if missing == [] or (plan and (target / preparation.MANIFEST).is_file()):
            return
        parts = sorted({number % tasks for number in missing}) if missing else parts
    raise OutsideError(
        f"shards are still missing after {_ATTEMPTS} arrays of jobs",
        where=request.target,
        hint="Their logs say why; the same command goes on.",
    )


@dataclass
class _Watcher:
    """Reports how many shards have a manifest, now and then: shared file systems are asked."""

    target: Path
    progress: Progress
    _total: int | None = None
    _next: float = 0.0

    def tick(self) -> None:
        """Report, unless that was done just before."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_S
        if self._total is None and (plan := preparation.read_plan(self.target)) is not None:
            self._total = len(plan["shards"])
        if self._total is not None:
            done = sum(1 for _ in (self.target / preparation.SHARDS).glob("[0-9]*.json"))
            self.progress.progress(done, self._total, "shards")


def _program(request: PreparationRequest) -> StackProgram:
    return StackProgram("--data", request.to_json(), "the preparation")


def _tasks(request: PreparationRequest) -> Path:
    """Return where folders of jobs are made: beside the result, which the nodes have to see anyway."""
    return Path(request.target).parent / ".launcher-tasks"


def _require_apart(request: PreparationRequest) -> None:
    source, target = (Path(os.path.realpath(path)) for path in (request.source, request.target))
    if source == target or source in target.parents:
        raise RequestError(
            "the result would lie inside the source, and a second call would take it for text",
            where=request.target,
            hint="Choose a directory beside the source.",
        )


def _absolute(directory: Path, text: str) -> str:
    path = user_path(text, directory)
    # `..` behind a symbolic link is not the directory in which the link lies.
    return os.path.realpath(path) if ".." in path.parts else os.path.normpath(path)
