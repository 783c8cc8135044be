"""Sources of a conversion: a model, a checkpoint, a run of the launcher. Needs only the standard library."""

import re
from pathlib import Path

from ...contract import checkpoints
from ..errors import UserError
from ..model import hf_files

_RUN = ("plan.json", "argv.json")
_ITERATION = re.compile(r"iter_\d+")


def require_hf_model(directory: Path) -> Path:
    """Return `directory` if it holds a Hugging Face model with safetensors weights. Raises UserError."""
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}", hint="a model on the hub must be fetched first")
    if not (directory / "config.json").is_file():
        raise UserError("this directory has no config.json, so it is not a Hugging Face model", where=str(directory))
    if not hf_files.holds_weights(directory):
        old = any(directory.glob("pytorch_model*.bin"))
        raise UserError(
            "this model has its weights as pytorch_model.bin only" if old else "this model's directory has no weights",
            where=str(directory),
            hint="only *.safetensors are read; transformers' save_pretrained() writes them",
        )
    return directory


def iteration(directory: Path) -> Path:
    """Return the directory of one complete iteration: `directory` itself, or the newest in a checkpoint or run.

    Raises UserError where there is none, or where the named one is not complete, and OSError where one that may be
    complete cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")
    if _ITERATION.fullmatch(directory.name) or (directory / ".metadata").is_file():
        if not checkpoints.is_complete(directory):
            raise UserError(
                "this checkpoint is incomplete: a file is missing or shorter than written", where=str(directory)
            )
        return directory
    if all((directory / name).is_file() for name in _RUN):
        directory = directory / "checkpoints"
    found = checkpoints.iterations(directory)
    newest = checkpoints.newest_complete(directory)
    if newest is None:
        steps = ", ".join(str(number) for number, _ in found)
        raise UserError(
            f"no checkpoint here is complete (iterations: {steps})"
            if found
            else "there is no Megatron checkpoint here",
            where=str(directory),
            hint="name a directory with iter_NNNNNNN directories, or a run's directory (with checkpoints/)",
        )
    return dict(found)[newest]
