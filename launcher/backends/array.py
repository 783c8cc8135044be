"""Several runs as one job array, one task for each: submitted once, recorded before and after.

An array has a directory: `array.json` says which runs it has, in order of their index; `N` is a link to the run of task
N, through which Slurm writes the run's sbatch.log; `journal.jsonl` holds what became of the submission. All of it is on
disk before sbatch is called, so that an interrupted submission is completed by calling `submit_array` again. The
journals of the runs say the same about their own task.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import ConfigError, DiskError, LauncherError
from launcher._util.shell import Shell
from launcher._util.version import __version__
from launcher.backends.process_environment import SLURM_CLIENT
from launcher.contract.files import append_line, read_object
from launcher.contract.next_attempt import with_token
from launcher.contract.paths import RunPaths
from launcher.planning.backend import BATCH
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.rundir.journal import Journal
from launcher.rundir.run_directory import write_atomically
from launcher.slurm.submit import ARRAY_MARK, Submission, SubmissionUnknownError, search, submit

_RECORD = "array.json"
_SCRIPT = "array.sh"
_OF_EACH_RUN = ("output", "comment")
"""Directives of a run's own batch script in whose place the array has one for all of its runs."""


@dataclass(frozen=True)
class Array:
    """A job array on disk, submitted or not."""

    path: Path
    token: str
    """What identifies its submission: Slurm shows it in the command and the comment of each task."""
    runs: tuple[Path, ...]
    """Run directories by the index of their task."""
    tokens: tuple[str, ...]
    """The token of each run."""
    clusters: str | None
    comment: str
    options: tuple[str, ...]
    """Options of sbatch besides those in the script."""
    inherit: tuple[str, ...]
    """Variables of the submitting shell that the runs get."""

    @classmethod
    def read(cls, path: Path) -> "Array":
        """Return the array of a directory. Raises DiskError where it is not one."""
        found = read_object(path / _RECORD)
        if found is None:
            raise DiskError("this is not the directory of a job array", where=str(path))
        return cls(
            path=path,
            token=found["token"],
            runs=tuple((path / run).resolve() for run in found["runs"]),
            tokens=tuple(found["tokens"]),
            clusters=found["clusters"],
            comment=found["comment"],
            options=tuple(found["options"]),
            inherit=tuple(found["inherit"]),
        )

    @property
    def journal(self) -> Journal:
        """What became of its submission."""
        return Journal(self.path / "journal.jsonl")

    def submission(self) -> Submission | Literal["refused"] | None:
        """Return its job, without the index of a task; None where it was not submitted as far as the journal says."""
        last = self.journal.last("submitted", "submit_refused")
        if last is None:
            return None
        job = last.get("job")
        return Submission(job, last.get("cluster")) if last["event"] == "submitted" and job else "refused"


def lacks_tasks(array: Array) -> bool:
    """Return whether an array was submitted and its last run does not say so: runs are recorded in their order."""
    return isinstance(array.submission(), Submission) and _lacks_task(array.runs[-1], array.tokens[-1])


def shape_of(plan: Plan) -> tuple[object, ...]:
    """Return what plans must have in common to be tasks of one array: the resources, and what their jobs inherit."""
    directives = tuple((key, value) for key, value in plan.directives if key not in _OF_EACH_RUN)
    names = tuple(sorted(variable.name for variable in plan.environment if variable.scope == "inherited"))
    return plan.name, plan.cluster, plan.shared, directives, names


@dataclass(frozen=True)
class Task:
    """A run that is to be a task of an array, with the token of its plan."""

    run_dir: str
    token: str


def write_array(
    path: Path, first: Plan, tasks: Sequence[Task], *, parallel: int | None, after: str | None = None
) -> Array:
    """Write the directory of an array of runs whose directories exist, whole or not at all.

    `first` is the plan of the first task, of the same shape as all others. At most `parallel` tasks run at the same
    time; `after` is a job behind which all wait. Raises DiskError.
    """
    token = f"{ARRAY_MARK}{first.name}:{secrets.token_hex(8)}"
    directives = dict(first.directives)
    throttle = f"%{parallel}" if parallel is not None and parallel < len(tasks) else ""
    options = [f"--array=0-{len(tasks) - 1}{throttle}"]
    if after is not None:
        options.append(f"--dependency={_both_dependencies(directives.get('dependency'), after)}")
    record: dict[str, Any] = {
        "version": 1,
        "token": token,
        "runs": [os.path.relpath(task.run_dir, path) for task in tasks],
        "tokens": [task.token for task in tasks],
        "clusters": directives.get("clusters"),
        "comment": with_token(directives.get("comment"), first.token, token),
        "options": options,
        "inherit": sorted({variable.name for variable in first.environment if variable.scope == "inherited"}),
    }
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(mode=0o700, parents=True)
        for index, run in enumerate(record["runs"]):
            (partial / str(index)).symlink_to(run)
        _write_json(partial / _RECORD, record)
        write_atomically(partial / _SCRIPT, script(path, first, len(tasks)), mode=0o700, exact_mode=True)
        partial.rename(path)
    except OSError as error:
        raise DiskError(f"cannot write the job array: {error.strerror}", where=str(path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Array.read(path)


def script(directory: Path, first: Plan, runs: int) -> str:
    """Return the batch script of an array of so many runs; `first` is the plan of one."""
    from launcher.scripts import render

    own = [(key, value) for key, value in first.directives if key not in _OF_EACH_RUN]
    directives = [*own, ("output", f"{directory}/%a/sbatch.log")]
    return render(
        "array.sh.j2",
        runs=runs,
        name=first.name,
        launcher=__version__,
        directives=directives,
        directory=directory,
    )


def submit_array(array: Array, environ: Mapping[str, str], shell: Shell, *, here: str | None) -> Submission:
    """Submit an array unless that was done, and record its tasks in the journals of their runs.

    `here` is Slurm's name of the local cluster. A try that was interrupted is completed: its job is looked for before
    anything is submitted again. Raises RequestError or SlurmError where Slurm refuses, SubmissionUnknownError where the
    job may exist, DiskError.
    """
    known = array.submission()
    if isinstance(known, Submission):
        _record_tasks(array, known, only_missing=True)
        return known
    found = None
    if array.journal.last("submit_intent") is not None:
        found = search(array.token, shell, clusters=array.clusters)
    else:
        _intend_tasks(array)
        array.journal.write("submit_intent", token=array.token, clusters=array.clusters)
    if found is None:
        found = _submit(array, environ, shell)
    found = Submission(found.job, found.cluster or here, found.recovered)
    array.journal.write("submitted", token=array.token, job=found.job, cluster=found.cluster, recovered=found.recovered)
    _record_tasks(array, found, only_missing=found.recovered)
    return found


def _submit(array: Array, environ: Mapping[str, str], shell: Shell) -> Submission:
    env = {name: environ[name] for name in (*array.inherit, *SLURM_CLIENT) if name in environ}
    try:
        return submit(
            array.path / _SCRIPT,
            shell,
            token=array.token,
            clusters=array.clusters,
            options=(*array.options, f"--comment={array.comment}"),
            env=env,
            cwd=array.path,
        )
    except SubmissionUnknownError as error:
        with contextlib.suppress(DiskError):  # Slurm's answer counts more
            array.journal.write("submit_unknown", token=array.token, error=error.message)
        raise
    except LauncherError as error:
        with contextlib.suppress(DiskError):  # Slurm's answer counts more
            array.journal.write("submit_refused", token=array.token, error=error.message)
            for run, token in zip(array.runs, array.tokens, strict=True):
                _note(run, {"event": "submit_refused", "token": token, "error": error.message})
        raise


def _intend_tasks(array: Array) -> None:
    for index, (run, token) in enumerate(zip(array.runs, array.tokens, strict=True)):
        line = {"event": "submit_intent", "token": token, "array": array.token, "index": index}
        _note(run, {**line, "submission": 0, "clusters": array.clusters, "after": None})


def _record_tasks(array: Array, submission: Submission, *, only_missing: bool) -> None:
    for index, (run, token) in enumerate(zip(array.runs, array.tokens, strict=True)):
        if only_missing and not _lacks_task(run, token):
            continue
        job = f"{submission.job}_{index}"
        line = {"event": "submitted", "backend": BATCH.name, "token": token, "job": job, "cluster": submission.cluster}
        _note(run, {**line, "array": array.token, "index": index, "recovered": submission.recovered})


def _lacks_task(run: Path, token: str) -> bool:
    try:
        events = RunDirectory(run).journal.read()
    except DiskError:
        return False  # it cannot be written either
    return not any(event["event"] == "submitted" and event.get("token") == token for event in events)


def _note(run: Path, line: Mapping[str, Any]) -> None:
    """Append to a run's journal. What is not written, as in a run that was removed, the array's own record says."""
    with contextlib.suppress(OSError):  # the array's own record is the one that counts
        append_line(RunPaths(run).journal_file, {"time": round(time.time(), 3), **line})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=1) + "\n", mode=0o600, exact_mode=True)


def _both_dependencies(own: str | None, after: str) -> str:
    """Return a dependency on `after` beside that of the request. Raises ConfigError where they cannot be joined."""
    if own is not None and "?" in own:
        raise ConfigError(
            f"the dependency {own!r} cannot be joined with one of the sweep's own",
            where="dependency",
            hint="Leave out max_parallel, or write a dependency without `?`.",
        )
    return f"{own},afterany:{after}" if own else f"afterany:{after}"
