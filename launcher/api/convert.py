"""Converting weights between Hugging Face's format and Megatron's, here or in a job."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher._util.errors import RequestError
from launcher._util.user_paths import user_path
from launcher.api.locate import find_cluster, find_run
from launcher.api.progress import Progress
from launcher.api.task_job import TaskJobOptions, perform_program
from launcher.backends.stack_program import StackProgram
from launcher.contract.conversion import ConversionRequest


def convert(
    request: ConversionRequest, progress: Progress, *, python: str | None = None, job: TaskJobOptions | None = None
) -> dict[str, Any]:
    """Convert and return the parity report, whose `ok` says whether the result is equal to its source.

    The request's paths are relative to the current directory. `python` is the interpreter with the training stack, None
    for the profile's or this one; `job` is the job to convert in, None for this machine. Raises RequestError for what
    cannot be converted, CommandError where the conversion failed, SlurmError.
    """
    cluster, host = find_cluster(job.cluster if job else None)
    request = _with_absolute_paths(request, host.directory)
    return perform_program(
        StackProgram("--convert", request.to_json(), "the conversion"),
        python=python,
        job=job,
        cluster=cluster,
        name="convert",
        # Beside the result, which the node has to see anyway.
        tasks=Path(request.target).parent / ".launcher-tasks",
        progress=progress,
    )


def _with_absolute_paths(request: ConversionRequest, directory: Path) -> ConversionRequest:
    export = request.action == "export"
    source = source_directory(request.source, directory) if export else user_path(request.source, directory)
    target = user_path(request.target, directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(
            "exists already and is not empty", where=str(target), hint="Name another directory, or remove it."
        )
    architecture = request.architecture
    if architecture and user_path(architecture, directory).exists():
        architecture = str(user_path(architecture, directory))
    return replace(request, source=str(source), target=str(target), architecture=architecture)


def source_directory(text: str, directory: Path) -> Path:
    """Return the directory that `text` means in `directory`, or the one of the run with that name.

    Raises RequestError where there is neither.
    """
    found = user_path(text, directory)
    if found.exists() or "/" in text:
        return found
    try:
        return find_run(text).path
    except RequestError as error:
        raise RequestError(f"there is no directory {found}, and no run {text!r}", hint=error.hint) from error
