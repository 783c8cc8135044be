"""What a conversion may start from: a model, a checkpoint, a run of the launcher. Standard library alone."""

import re
from pathlib import Path

from ..errors import UserError
from ..model import checkpoints, hf_files

_RUN = ("plan.json", "argv.json")
_ITERATION = re.compile(r"iter_\d+")


def hf_directory(directory: Path) -> Path:
    """`directory`, if it holds a Hugging Face model with weights in safetensors. Raises UserError."""
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}", hint="a model of the hub has to be fetched first")
    if not (directory / "config.json").is_file():
        raise UserError("this directory has no config.json, so it is no Hugging Face model", where=str(directory))
    if not hf_files.holds_weights(directory):
        old = any(directory.glob("pytorch_model*.bin"))
        raise UserError(
            "this model has its weights as pytorch_model.bin only" if old else "this model's directory has no weights",
            where=str(directory),
            hint="weights are read from *.safetensors; transformers' save_pretrained() writes them",
        )
    return directory


def iteration(place: Path) -> Path:
    """The directory of one whole iteration: `place` itself, or the newest in a checkpoint directory or in a run.

    Raises UserError where there is none, or where the one that is named is not whole.
    """
    if not place.is_dir():
        raise UserError(f"there is no directory {place}")
    if _ITERATION.fullmatch(place.name) or (place / ".metadata").is_file():
        if not checkpoints.is_complete(place):
            raise UserError("this checkpoint is not whole: a file is missing or shorter than written", where=str(place))
        return place
    if all((place / name).is_file() for name in _RUN):
        place = place / "checkpoints"
    found = checkpoints.iterations(place)
    newest = checkpoints.newest_complete(place)
    if newest is None:
        steps = ", ".join(str(number) for number, _ in found)
        raise UserError(
            f"no checkpoint here is whole (iterations: {steps})" if found else "there is no Megatron checkpoint here",
            where=str(place),
            hint="a checkpoint directory has iter_NNNNNNN directories; a run of the launcher has checkpoints/",
        )
    return dict(found)[newest]
