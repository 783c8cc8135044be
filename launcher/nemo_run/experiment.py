"""`launcher import-nemo-run`: from a Python file that makes a NeMo-Run experiment to job files, one for each task.

The file is executed with NeMo-Run's `Experiment.run`, `Experiment.dryrun` and `nemo_run.run` replaced: what it would
have run is written down, and nothing is submitted. What of an executor the launcher does not do is listed, not dropped.
"""

import contextlib
import dataclasses
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import nemo_run
from nemo_run.core.execution.launcher import FaultTolerance, Torchrun
from nemo_run.core.execution.local import LocalExecutor
from nemo_run.core.execution.slurm import SlurmExecutor
from nemo_run.core.packaging.base import Packager
from nemo_run.run.job import JobGroup

from launcher._util.errors import OutsideError, RecipeError, RequestError
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.contract.variables import is_secret
from launcher.nemo_run.executor import LauncherExecutor, nsys_options
from launcher.nemo_run.task import TranslatedTask, translate_task

_AS_OPTION = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "time": "time",
    "nodes": "nodes",
    "exclude": "exclude",
    "container_image": "image",
    "container_mounts": "mounts",
}
"""Fields of SlurmExecutor that are keys of a job file."""

_AS_SBATCH = (
    *("cpus_per_task", "cpus_per_gpu", "mem", "mem_per_gpu", "mem_per_cpu", "constraint", "gres", "signal"),
    *("exclusive", "segment", "network"),
)
"""Fields of SlurmExecutor that are sbatch's options."""

_WITHOUT_TRACE = ("job_dir", "experiment_id", "experiment_dir", "dependencies", "job_name", "resource_group")
_LEFT_OUT = {
    "array": "each task is a run of its own; `launcher sweep` submits arrays of them",
    "comment": "the launcher writes the token of the submission into it",
    "container_env": "the profile and `env` say which variables a container gets",
    "heterogeneous": "a run has nodes of one kind",
    "het_group_indices": "a run has nodes of one kind",
    "job_name_prefix": "a job has the name of its run",
    "memory_measure": "the page of a run shows the memory of each step",
    "monitor_group_job": "each task is a run of its own",
    "open_mode": "logs of attempts are kept apart",
    "packager": "files travel by `ship`, and those that git tracks beside a recipe",
    "retries": "`keep_going = true` continues a run from its checkpoint",
    "setup_lines": "write them into the image, or `env_source` of the cluster profile",
    "tunnel": "submit on a login node, or name the host in the cluster profile",
    "gpus_per_task": "each rank has one GPU",
    "torchrun_nproc_per_node": "state gpus_per_node",
}


@dataclass
class ImportedTask:
    """A task as a job file."""

    name: str
    translated: TranslatedTask
    waits_for: list[str] = field(default_factory=list)
    dependency_type: str = "afterok"
    file: Path = Path()


def import_experiment(script: Path, arguments: Sequence[str], output: Path) -> list[ImportedTask]:
    """Write a job file for each task of the experiments that a script makes, and return them in the order to submit.

    Raises RecipeError for a script without an experiment, OutsideError where it fails, RequestError for a task that
    cannot be translated at all.
    """
    output = output.absolute()  # paths in job files are relative to wherever they are submitted
    found = _record(script, arguments)
    if not any(found):
        raise RecipeError(
            "the script runs no experiment of NeMo-Run",
            where=str(script),
            hint="It is executed as a program: what it needs to get that far may be arguments, behind --.",
        )
    names: set[str] = set()
    tasks = []
    for experiment in found:
        by_id: dict[str, str] = {}  # another experiment may have the same ones
        for job in experiment:
            name = _free(re.sub(r"[^A-Za-z0-9._-]+", "-", job.id).lstrip("-._")[:60] or "task", names)
            by_id[job.id] = name
            tasks.append(_imported(job, name, output))
            tasks[-1].waits_for = [by_id[each] for each in job.dependencies]
    output.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        task.file = output / f"{task.name}.toml"
        parse(Request, task.translated.stated, where=f"task {task.name}")
        task.file.write_text(_job_file(task, script))
    return tasks


def _free(name: str, names: set[str]) -> str:
    """Return the name, or one with a number behind it that no task has."""
    number, found = 2, name
    while found in names:
        found, number = f"{name}-{number}", number + 1
    names.add(found)
    return found


def _record(script: Path, arguments: Sequence[str]) -> list[list[Any]]:
    """Execute the script and return the jobs of each experiment that it runs."""
    recorded: list[list[Any]] = []

    def take(experiment: Any, *_: Any, **options: Any) -> None:
        jobs = list(experiment.jobs)
        if options.get("sequential"):
            for before, job in itertools.pairwise(jobs):
                job.dependencies.append(before.id)
        recorded.append(jobs)

    def take_one(task: Any, executor: Any = None, plugins: Any = None, name: str = "", **_: Any) -> None:
        each = plugins if isinstance(plugins, list | None) else [plugins]
        with nemo_run.Experiment(name or "task", executor=executor) as experiment:
            experiment.add(task, name=name, plugins=each)
            take(experiment)

    with contextlib.ExitStack() as stack:
        for name, value in (("run", take), ("dryrun", take)):
            stack.enter_context(mock.patch.object(nemo_run.Experiment, name, value))
        stack.enter_context(mock.patch.object(nemo_run, "run", take_one))
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        stack.enter_context(mock.patch.object(sys, "path", [str(script.parent.absolute()), *sys.path]))
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            if end.code not in (0, None) and not recorded:
                raise OutsideError(f"the script ended with status {end.code}", where=str(script)) from None
        except Exception as error:  # whatever a user's program raises
            raise OutsideError(f"the script failed: {type(error).__name__}: {error}", where=str(script)) from error
    return recorded


def _imported(job: Any, name: str, output: Path) -> ImportedTask:
    if isinstance(job, JobGroup):
        raise RequestError(f"task {name} is a group of commands in one job", hint="Add each as a task of its own.")
    executor = job.executor
    ship = executor.ship if isinstance(executor, LauncherExecutor) else ()
    translated = translate_task(job.task, name, output / name, ship=ship)
    if isinstance(executor, LauncherExecutor):
        executor.require_supported()
        executor.job_name = name
        translated.stated = executor.stated(translated)
    elif isinstance(executor, SlurmExecutor):
        _take_slurm(executor, translated)
    else:
        translated.left_out.append(f"the executor {type(executor).__name__}: the job file states no resources")
        _take_env(executor.env_vars, translated)
        if isinstance(executor, LocalExecutor):
            translated.stated["gpus_per_node"] = executor.ntasks_per_node
    translated.stated["name"] = name
    return ImportedTask(name, translated, dependency_type=getattr(executor, "dependency_type", "afterok"))


def _take_slurm(executor: Any, found: TranslatedTask) -> None:
    """Add what a SlurmExecutor states to a task, and list what of it has no place in a job file."""
    stated = found.stated
    options = {key: getattr(executor, name) for name, key in _AS_OPTION.items()}
    stated |= {key: value for key, value in options.items() if value not in (None, [], "")}
    sbatch = {name: getattr(executor, name) for name in _AS_SBATCH} | (executor.additional_parameters or {})
    stated["sbatch"] = {name.replace("_", "-"): value for name, value in sbatch.items() if value is not None}
    chosen = executor.get_launcher()
    torchrun = isinstance(chosen, Torchrun)
    stated["gpus_per_node"] = (executor.nproc_per_node() if torchrun else executor.ntasks_per_node) or 1
    if executor.gpus_per_node and executor.gpus_per_node != stated["gpus_per_node"]:
        stated["sbatch"]["gpus-per-node"] = executor.gpus_per_node
    stated |= nsys_options(chosen)
    if isinstance(chosen, FaultTolerance):
        found.left_out.append("launcher: the launcher itself finds hangs; `keep_going = true` continues the run")
    elif type(chosen).__name__ not in ("Launcher", "Torchrun"):
        found.left_out.append(f"launcher: the template of {type(chosen).__name__}")
    _take_srun_args(executor.srun_args or (), found)
    _take_env(executor.env_vars, found)
    found.left_out += _other_fields(executor)


def _take_srun_args(arguments: Sequence[str], found: TranslatedTask) -> None:
    kept = []
    for each in arguments:
        if each.startswith(("--container-", "--no-container-")):
            found.left_out.append(f"srun_args {each}: the launcher decides how tasks enter the image")
        elif each.startswith("--mpi"):
            found.left_out.append(f"srun_args {each}: `mpi` of the cluster profile")
        else:
            kept.append(each)
    if kept:
        found.stated["srun_args"] = kept


def _take_env(variables: Mapping[str, str], found: TranslatedTask) -> None:
    """Add variables; of one that looks like a secret the name alone, whose value the submitting shell has to have."""
    env: list[str] = []
    of_task = [each.partition("=") for each in found.stated.get("env", ())]
    for name, value in [*((name, value) for name, _, value in of_task), *variables.items()]:
        if is_secret(name):
            env.append(name)
            found.left_out.append(f"the value of {name}: it is passed on from the submitting shell, so set it there")
        else:
            env.append(f"{name}={value}")
    if env:
        found.stated["env"] = env


def _other_fields(executor: Any) -> Iterator[str]:
    """Yield a sentence for each further field of a SlurmExecutor that was stated."""
    taken = {*_AS_OPTION, *_AS_SBATCH, *_WITHOUT_TRACE, "additional_parameters", "srun_args", "env_vars", "launcher"}
    taken |= {"ntasks_per_node", "gpus_per_node", "job_details", "dependency_type", "poll_estimated_start_time"}
    if isinstance(executor.get_launcher(), Torchrun):  # NeMo-Run sets it then, and it is gpus_per_node
        taken.add("torchrun_nproc_per_node")
    for each in dataclasses.fields(executor):
        if each.name in taken or not each.init:
            continue
        value = getattr(executor, each.name)
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if value != default and type(value) is not Packager:
            yield f"{each.name}: {_LEFT_OUT.get(each.name, 'has no place in a job file')}"


def _job_file(task: ImportedTask, script: Path) -> str:
    """Return the text of a job file, with what was left out as comments."""
    import tomlkit

    lines = [f"# Made of {script} by launcher import-nemo-run."]
    lines += [f"# Not translated: {text}" for text in task.translated.left_out]
    if task.waits_for:
        lines.append(f"# Waits for: {', '.join(task.waits_for)}")
    plain = {key: value for key, value in task.translated.stated.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in task.translated.stated.items() if isinstance(value, dict)}
    text = "\n".join(line.replace("\n", " ") for line in lines)
    return f"{text}\n{tomlkit.dumps({**plain, **tables})}"


_JOB_OF_ANSWER = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"job\"])'"


def submit_lines(tasks: Sequence[ImportedTask]) -> list[str]:
    """Return the lines of a shell that submit the tasks, each behind those that it waits for.

    A line whose task waits for one that was not submitted ends with an error of the shell.
    """
    lines = []
    waited_for = {name for task in tasks for name in task.waits_for}
    variables = {task.name: f"job_{number}" for number, task in enumerate(tasks, 1)}
    for task in tasks:
        text = shlex.join(["launcher", "submit", str(task.file)])
        if task.waits_for:
            jobs = ":".join(f"${{{variables[name]}:?}}" for name in task.waits_for)
            text += f' --sbatch "dependency={task.dependency_type}:{jobs}" --sbatch kill-on-invalid-dep=yes'
        if task.name in waited_for:
            text = f"{variables[task.name]}=$({text} --json | {_JOB_OF_ANSWER})"
        lines.append(text)
    return lines
