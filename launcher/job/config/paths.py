"""Where a run's files go, and which checkpoint an attempt starts from.

Bridge's recipes write to `os.getcwd()/nemo_experiments/default`, and load from there what an earlier run has left. The
launcher moves all of it into the run directory, unless the user chose otherwise, and only a later attempt of the same
run loads anything.
"""

from pathlib import Path
from typing import Any, Optional

from ..errors import UserError
from ..model import checkpoints
from ..rank import Rank

# Default of megatron.bridge.training.config.ProfilingConfig.memory_snapshot_path (0.6.2), a path in NeMo's own images.
BRIDGE_SNAPSHOT = "/nemo_run/snapshot.pickle"


def is_overridden(key: str, keys: frozenset[str]) -> bool:
    """Return whether `key`, or a section that contains it, is among the overridden `keys`."""
    parts = key.split(".")
    return any(".".join(parts[: length + 1]) in keys for length in range(len(parts)))


def place_files(config: Any, rank: Rank, keys: frozenset[str]) -> None:
    """Point Bridge's outputs into the run directory, except paths that the user (override or recipe) chose."""
    paths = {
        "checkpoint.save": rank.run_paths.checkpoints,
        "logger.tensorboard_dir": rank.run_paths.tensorboard,
        "logger.save_config_filepath": rank.paths.config,
        "profiling.memory_snapshot_path": rank.paths.profiles / "memory.pickle",
    }
    for key, path in paths.items():
        section, name = key.split(".")
        owner = getattr(config, section, None)
        if owner is not None and not is_overridden(key, keys) and _is_default(getattr(owner, name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            setattr(owner, name, str(path))


def stop_on_signal(config: Any, keys: frozenset[str]) -> None:
    """Let a signal save and stop the run, unless the user overrode that.

    Slurm signals every process of a step. A DataLoader worker that dies from it makes its rank raise in the middle of
    saving, so the workers ignore the signal too.
    """
    for name in ("exit_signal_handler", "exit_signal_handler_for_dataloader"):
        if not is_overridden(f"train.{name}", keys):
            setattr(config.train, name, True)


def choose_checkpoint(config: Any, rank: Rank, keys: frozenset[str], load: bool) -> None:
    """Set in `config.checkpoint` what this attempt loads.

    Attempt 000 loads nothing, or what the user named in `checkpoint.load` and allowed (`load`). A later attempt
    continues from the newest complete checkpoint of the run, wherever the tracker points; where none was saved yet, it
    starts as attempt 000 did. Raises UserError where a new run would load a checkpoint without permission, or a
    permitted one does not exist.
    """
    section = config.checkpoint
    later = int(rank.attempt) > 0 and section.save
    if not (later and _resume(section, keys)):
        section.load = _first_load(section.load, load)


def _first_load(wish: Optional[str], load: bool) -> Optional[str]:
    if wish is None or _is_default(wish):
        return None
    if _is_remote(wish) or checkpoints.holds_checkpoint(Path(wish)):
        if load:
            return wish
        what = "may hold a checkpoint (remote paths are not checked)" if _is_remote(wish) else "holds a checkpoint"
        raise UserError(
            f"checkpoint.load={wish} {what}; a new run loads a checkpoint only when you allow it",
            where="checkpoint.load",
            hint="allow it with --allow-checkpoint-load, or continue the run that wrote it with --resume",
        )
    if load:
        raise UserError(
            f"--allow-checkpoint-load was given, but checkpoint.load={wish} holds no checkpoint",
            where="checkpoint.load",
        )
    return None


def _resume(section: Any, keys: frozenset[str]) -> bool:
    """Set what continues the run; return False where nothing was saved yet."""
    step: Optional[int] = section.ckpt_step if is_overridden("checkpoint.ckpt_step", keys) else None
    if _is_remote(section.save):
        # Only Bridge can read remote paths; without a step it loads what its tracker names.
        section.load, section.ckpt_step = section.save, step
    else:
        directory = Path(section.save)
        step = _complete_step(directory, section.ckpt_format) if step is None else step
        if step is None:
            return False
        # Without a tracker Bridge silently starts from nothing; an iteration's own directory needs none.
        tracked = checkpoints.has_tracker(directory)
        section.load = str(directory if tracked else directory / f"iter_{step:07d}")
        section.ckpt_step = step if tracked else None
    # Fine-tuning resets iteration and optimizer on load: right for initial weights, wrong for the run's own checkpoint.
    section.finetune = False
    return True


def _complete_step(directory: Path, ckpt_format: str) -> Optional[int]:
    step = checkpoints.newest_complete(directory, ckpt_format)
    if step is None and checkpoints.has_tracker(directory):
        found = ", ".join(str(number) for number, _ in checkpoints.iterations(directory)) or "none"
        raise UserError(
            f"none of the checkpoints that this run saved in {directory} is complete (iterations: {found})",
            where=str(directory),
            hint="name one with checkpoint.ckpt_step=N, or start a new run; resuming would start from nothing",
        )
    return step


def _is_remote(path: str) -> bool:
    return "://" in path


def _is_default(value: Optional[str]) -> bool:
    if value is None or value == BRIDGE_SNAPSHOT:
        return True
    return Path(value).is_relative_to(Path.cwd() / "nemo_experiments")
