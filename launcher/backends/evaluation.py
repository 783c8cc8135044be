"""The evaluation of a run, here or on a compute node: its newest checkpoint exported once, then the tasks on that."""

import os
import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, DiskError, LauncherError, RequestError
from launcher._util.shell import LocalShell, Shell
from launcher.backends.stack_program import StackProgram, call
from launcher.contract import checkpoints, evaluation
from launcher.contract.conversion import REPORT, ConversionRequest
from launcher.contract.evaluation import EvaluationRecord, EvaluationRequest
from launcher.contract.events import EventWriter, ProgressListener
from launcher.contract.files import read_object, write_json
from launcher.images.build.remote import RemoteFailure
from launcher.rundir import RunDirectory


def evaluate(
    run: Path, request: EvaluationRequest, iteration: int | None, python: str, shell: Shell, report: ProgressListener
) -> dict[str, Any]:
    """Evaluate on this machine, note the result in the run, and return the record with its `file`.

    `iteration` is that of a checkpoint, None for the newest whole one; the request's `model` is an export of that
    checkpoint, or empty: then the run's own is made, or used again. Raises RequestError where there is no such
    checkpoint, CommandError where a program failed or the export is not equal to the checkpoint.
    """
    directory = RunDirectory(run)
    step = _iteration(directory, iteration)
    try:
        directory.evaluations.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(f"the result cannot be noted in the run: {error.strerror}", where=str(run)) from error
    if request.model:
        _require_export_of(_checkpoint(directory, step), Path(request.model))
    request = replace(request, model=request.model or str(_export(directory, step, python, shell, report)))
    found = call(StackProgram("--evaluate", request.to_json(), "the evaluation"), python, shell, report)
    record: EvaluationRecord = {
        "version": evaluation.VERSION,
        "iteration": step,
        "model": request.model,
        "tasks": found["tasks"],
        "limit": found["limit"],
        "ended": time.time(),
        "seconds": found["seconds"],
        "device": found["device"],
        "versions": found["versions"],
    }
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = directory.evaluations / f"iter_{step:07d}-{stamp}-{secrets.token_hex(3)}.json"
    if not directory.evaluations.is_dir():
        raise RequestError("the run was removed while it was evaluated", where=str(run))
    write_json(file, record)
    return {**record, "file": str(file)}


def perform(
    run: Path, request: EvaluationRequest, iteration: int | None, python: str | None, events: Path
) -> "dict[str, Any] | RemoteFailure":
    """Evaluate on the node that calls this, with a file for the events."""
    report = EventWriter.to_file(events)
    try:
        return evaluate(run, request, iteration, python or sys.executable, LocalShell(), report)
    except LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)


def _iteration(run: RunDirectory, wanted: int | None) -> int:
    """Return the iteration of a whole checkpoint of the run."""
    found = dict(checkpoints.iterations(run.checkpoints))
    whole = [step for step, path in found.items() if checkpoints.is_complete(path) and not run.set_aside(step).exists()]
    if wanted is None and whole:
        return whole[-1]
    if wanted in whole:
        return wanted
    there = ", ".join(map(str, whole)) or "none"
    what = "no checkpoint of this run is whole" if wanted is None else f"iteration {wanted} is not a whole checkpoint"
    raise RequestError(what, where=str(run.checkpoints), hint=f"Whole ones: {there}.")


def _export(run: RunDirectory, step: int, python: str, shell: Shell, report: ProgressListener) -> Path:
    """Return the run's own export of an iteration, made now where there is none yet."""
    target = run.export(step)
    if _is_equal(target):
        written = max(file.stat().st_mtime for file in _checkpoint(run, step).iterdir())
        if (target / REPORT).stat().st_mtime < written:
            raise RequestError(
                f"the checkpoint of iteration {step} was written after the run's export of that iteration",
                where=str(target),
                hint="Remove the export; it is made anew then.",
            )
        return target
    target.parent.mkdir(exist_ok=True)
    request = ConversionRequest(action="export", source=str(_checkpoint(run, step)), target=str(target), whole=True)
    try:
        found = call(StackProgram("--convert", request.to_json(), "the export"), python, shell, report)
    except LauncherError:
        if _is_equal(target):  # another evaluation has made it meanwhile
            return target
        raise
    if not found["ok"]:
        raise CommandError(
            "the export is not equal to the checkpoint, so it is not evaluated",
            where=str(found["target"]),
            hint=f"{REPORT} there says where they differ.",
        )
    return target


def _is_equal(export: Path) -> bool:
    return (read_object(export / REPORT) or {}).get("ok") is True


def _checkpoint(run: RunDirectory, step: int) -> Path:
    return dict(checkpoints.iterations(run.checkpoints))[step]


def _require_export_of(checkpoint: Path, model: Path) -> None:
    """Raise RequestError unless the report of an export says that it was made of this checkpoint, and is equal."""
    report = read_object(model / REPORT) or {}
    source = str(report.get("source")) if report.get("action") == "export" else None
    if source is not None and os.path.realpath(source) == os.path.realpath(checkpoint) and report.get("ok") is True:
        return
    why = f"no {REPORT} of an export" if source is None else f"its {REPORT} names {source}"
    raise RequestError(
        f"this directory is not known to be an equal export of {checkpoint}: {why}",
        where=f"--model {model}",
        hint="Leave it out: then the run's own export is made, or used again.",
    )
