"""Converting weights between Hugging Face's format and Megatron's, here or in a job."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher.api.locate import find_cluster, find_run
from launcher.api.progress import Progress
from launcher.api.task_job import TaskJobOptions, perform_in_job
from launcher.backends import conversion
from launcher.backends.conversion import Conversion


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert; paths are relative to the current directory."""

    action: Literal["import", "export"]
    source: str
    """A directory; to export also the name of a run."""
    target: str
    """The directory to make: it must not exist, or be empty."""
    architecture: str | None = None
    """The directory with config.json and the tokenizer, in place of what the checkpoint remembers."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dtype: str | None = None
    """The type of the result; None for the source's."""
    logits: bool = True
    """Whether to run both models and compare what they answer."""
    device: str = "auto"
    python: str | None = None
    """The interpreter with the training stack; None for the profile's or this one."""
    job: TaskJobOptions | None = None
    """The job to do it in; None for this machine."""


def convert(request: ConversionRequest, progress: Progress) -> dict[str, Any]:
    """Convert and return the parity report, whose `ok` says whether the result is equal to its source.

    Raises RequestError for what cannot be converted, CommandError where the conversion failed, SlurmError.
    """
    cluster, host = find_cluster(request.job.cluster if request.job else None)
    wanted = _conversion(request, host.directory)
    python = request.python or cluster.python
    if request.job is None:
        return conversion.convert(wanted, python or sys.executable, LocalShell(), progress)
    found: dict[str, Any] = perform_in_job(
        conversion.perform,
        (wanted, python),
        job=request.job,
        cluster=cluster,
        name="convert",
        # Beside the result, which the node has to see anyway.
        tasks=Path(wanted.target).parent / ".launcher-tasks",
        progress=progress,
    )
    return found


def _conversion(request: ConversionRequest, directory: Path) -> Conversion:
    source = _absolute(directory, request.source)
    if request.action == "export" and not source.exists() and "/" not in request.source:
        source = _run_directory(request.source, source)
    target = _absolute(directory, request.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(
            "exists already and is not empty", where=str(target), hint="Name another directory, or remove it."
        )
    architecture = request.architecture
    if architecture and _absolute(directory, architecture).exists():
        architecture = str(_absolute(directory, architecture))
    return Conversion(
        action=request.action,
        source=str(source),
        target=str(target),
        architecture=architecture,
        tp=request.tp,
        pp=request.pp,
        ep=request.ep,
        dtype=request.dtype,
        logits=request.logits,
        device=request.device,
    )


def _run_directory(name: str, directory: Path) -> Path:
    try:
        return find_run(name).path
    except RequestError as error:
        raise RequestError(f"there is no directory {directory}, and no run {name!r}", hint=error.hint) from error


def _absolute(directory: Path, text: str) -> Path:
    return (directory / Path(text).expanduser()).absolute()
