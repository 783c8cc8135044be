"""What surrounds Bridge's loading of the chosen checkpoint.

Before it all ranks agree, by one collective, that they load the same. What only the load finds damaged (a checkpoint
without sums, or one whose sums there was no time for) ends the attempt and is set aside, so that the next attempt
continues from an older one.
"""

import contextlib
import json
import pickle
import time
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, cast

from ...contract.checkpoints import Problem
from ...contract.files import read_object, write_json
from ...contract.records.checkpoints import CheckpointChoice, SetAside
from ..errors import UserError
from ..rank import Rank

_READERS = ("torch/serialization.py", "torch/_weights_only_unpickler.py", "json/decoder.py", "yaml/", "/zipfile")
"""Where Python reads the bytes of a checkpoint's files."""

_DAMAGE = (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, zlib.error, json.JSONDecodeError, UnicodeDecodeError)

_NOT_DAMAGE = (MemoryError, OSError, KeyboardInterrupt, SystemExit)
"""A disk or a network that fails for a while raises OSError; the file may be whole."""


class UnreadableCheckpointError(RuntimeError):
    """Bytes of the checkpoint are not what was saved, as its loading has shown."""


@contextlib.contextmanager
def watched(config: Any, rank: Rank, device: str) -> Iterator[None]:
    """Let all ranks agree before Bridge loads the chosen checkpoint inside the block, and mark one that is damaged.

    The loading raises UserError where ranks would load different checkpoints, and UnreadableCheckpointError for damage.
    """
    choice = cast(Optional[CheckpointChoice], read_object(rank.paths.checkpoint_choice))
    if choice is None or choice["load"] is None:
        yield
        return
    from megatron.bridge.training import checkpointing

    module: Any = checkpointing
    original = module._load_checkpoint_from_path

    def load(load_dir: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(load_dir) != config.checkpoint.load:  # initial weights
            return original(load_dir, *arguments, **keywords)
        _agree(f"{load_dir} {config.checkpoint.ckpt_step}", device)
        try:
            return original(load_dir, *arguments, **keywords)
        except BaseException as error:
            damage = damage_in(error)
            if damage is None:
                raise
            raise UnreadableCheckpointError(mark(rank, choice, damage)) from error

    module._load_checkpoint_from_path = load
    try:
        yield
    finally:
        module._load_checkpoint_from_path = original


def damage_in(error: BaseException) -> Optional[str]:
    """Return what shows that bytes of a file are wrong, `TYPE: message`; None where the error may mean something else.

    Such is an error of a format's reader, or one that is raised below such a reader: garbage makes an unpickler raise
    anything. torch.distributed.checkpoint collects the errors of all ranks in `failures`.
    """
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict):
        found = (_damage(inner, [frame.filename for frame in frames]) for inner, frames in failures.values())
        return next((text for text in found if text is not None), None)
    chain: Optional[BaseException] = error
    while chain is not None:
        frames = [frame.filename for frame in traceback.extract_tb(chain.__traceback__)]
        if (text := _damage(chain, frames)) is not None:
            return text
        chain = chain.__cause__
    return None


def mark(rank: Rank, choice: CheckpointChoice, damage: str) -> str:
    """Set the chosen checkpoint aside if it is the run's and its bytes were not all verified; return what to say."""
    load, iteration = Path(str(choice["load"])), choice["iteration"]
    path = load if choice["ckpt_step"] is None else load / f"iter_{choice['ckpt_step']:07d}"
    said = f"checkpoint {path} cannot be loaded ({damage[:300]})"
    verification = choice["verification"]
    if verification is not None and verification["state"] == "verified":
        return f"{said}; its sums are right, so its files are as they were saved"
    if iteration is None or not choice["resumed"] or not path.resolve().is_relative_to(rank.run_dir.resolve()):
        return f"{said}; nothing is changed in a directory outside the run: name another with checkpoint.ckpt_step=N"
    try:
        set_aside(rank, iteration, path, Problem(path.name, f"could not be loaded ({damage[:300]})"))
    except OSError as error:
        return f"{said}; it could not be set aside: {error}"
    return f"{said}; it is set aside, and the next attempt continues from an older one"


def set_aside(rank: Rank, iteration: int, path: Path, problem: Problem) -> None:
    """Write the marker because of which no attempt loads a checkpoint. Raises OSError."""
    marker: SetAside = {
        "version": 1,
        "time": time.time(),
        "attempt": rank.attempt,
        "directory": str(path),
        "iteration": iteration,
        "file": problem.file,
        "reason": problem.reason,
    }
    write_json(rank.run_paths.set_aside(iteration), marker)


def _damage(error: BaseException, files: list[str]) -> Optional[str]:
    if isinstance(error, _NOT_DAMAGE) or "memory" in str(error)[:300].lower():
        return None
    in_reader = any(part in file for file in files for part in _READERS)
    return f"{type(error).__name__}: {error}" if in_reader or isinstance(error, _DAMAGE) else None


def _agree(what: str, device: str) -> None:
    """Raise UserError on every rank where the text is not the same on all: one collective."""
    import torch

    if not torch.distributed.is_initialized():
        return
    number = zlib.crc32(what.encode())
    both = torch.tensor([number, -number], dtype=torch.int64, device="cpu" if device == "cpu" else "cuda")
    torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
    if both[0].item() != -both[1].item():
        raise UserError(
            f"the ranks would load different checkpoints; this one: {what}",
            where="checkpoint.load",
            hint="a recipe that sets checkpoint.load must set the same on every rank",
        )
