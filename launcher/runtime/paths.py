"""Where a run's files go, and which checkpoint an attempt starts from.

Bridge's recipes write to `os.getcwd()/nemo_experiments/default`, and load from there what a former run has left. Here
all of it goes into the run directory unless the user said otherwise, and only a later attempt of the same run loads
anything.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from . import checkpoints
from .errors import UserError
from .rank import Rank

# Default of megatron.bridge.training.config.ProfilingConfig.memory_snapshot_path (0.6.2): a directory of NeMo's own
# images.
BRIDGE_SNAPSHOT = "/nemo_run/snapshot.pickle"


def overridden(overrides: Iterable[str]) -> frozenset[str]:
    """Keys that Hydra override strings set: `train.train_iters` of `+train.train_iters=20`."""
    return frozenset(text.partition("=")[0].lstrip("+~").strip() for text in overrides)


def is_overridden(key: str, keys: frozenset[str]) -> bool:
    """Whether `key`, or a section that it lies in, is among the overridden `keys`."""
    parts = key.split(".")
    return any(".".join(parts[: length + 1]) in keys for length in range(len(parts)))


def place_files(config: Any, rank: Rank, keys: frozenset[str]) -> None:
    """Point Bridge's outputs into the run directory, except where the user (override or recipe) chose a place."""
    places = {
        "checkpoint.save": rank.run_dir / "checkpoints",
        "logger.tensorboard_dir": rank.run_dir / "tensorboard",
        "logger.save_config_filepath": rank.attempt_dir / "config.yaml",
        "profiling.memory_snapshot_path": rank.attempt_dir / "profiles" / "memory.pickle",
    }
    for key, path in places.items():
        section, name = key.split(".")
        owner = getattr(config, section, None)
        if owner is not None and not is_overridden(key, keys) and _is_default(getattr(owner, name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            setattr(owner, name, str(path))


def stop_on_signal(config: Any, keys: frozenset[str]) -> None:
    """Let a signal save and stop the run, unless the user overrode it.

    Slurm signals every process of a step. A DataLoader worker that dies of it makes its rank raise in the middle of
    saving, so the workers are told to let it pass as well.
    """
    for name in ("exit_signal_handler", "exit_signal_handler_for_dataloader"):
        if not is_overridden(f"train.{name}", keys):
            setattr(config.train, name, True)


def choose_checkpoint(config: Any, rank: Rank, keys: frozenset[str], load: bool) -> Optional[int]:
    """Set what this attempt loads in `config.checkpoint`; returns the iteration that it resumes, None for none.

    Attempt 000 loads nothing, or what the user named in `checkpoint.load` and allowed (`load`). A later attempt
    continues from the newest complete checkpoint of the run, wherever the tracker points; where nothing was saved yet
    it starts as attempt 000 did.
    Raises UserError where a new run would load a checkpoint that nobody allowed, or an
    allowed one is not there.
    """
    if int(rank.attempt) > 0 and config.checkpoint.save:
        step = _resume(config.checkpoint, keys)
        if step is not None:
            return step
    config.checkpoint.load = _first_load(config.checkpoint.load, load)
    return None


def _first_load(wish: Optional[str], load: bool) -> Optional[str]:
    directory = None if wish is None or _is_default(wish) else Path(wish)
    if directory is None:
        return None
    if checkpoints.holds_checkpoint(directory):
        if load:
            return str(directory)
        raise UserError(
            f"checkpoint.load={directory} holds a checkpoint, and a new run loads none by accident",
            where="checkpoint.load",
            hint="allow it with --load, or continue the run that wrote it with --resume",
        )
    if load:
        raise UserError(
            f"--load was given and checkpoint.load={directory} holds no checkpoint", where="checkpoint.load"
        )
    return None


def _resume(section: Any, keys: frozenset[str]) -> Optional[int]:
    directory = Path(section.save)
    chosen = section.ckpt_step if is_overridden("checkpoint.ckpt_step", keys) else None
    step: Optional[int] = chosen if chosen is not None else checkpoints.newest_complete(directory)
    if step is None:
        return None
    # Without a tracker Bridge starts from nothing and does not say so; an iteration's own directory needs none.
    tracked = checkpoints.has_tracker(directory)
    section.load = str(directory if tracked else directory / f"iter_{step:07d}")
    section.ckpt_step = step if tracked else None
    # Fine-tuning resets iteration and optimizer on load: right for the first attempt's weights, wrong for the run's
    # own.
    section.finetune = False
    return step


def _is_default(value: Optional[str]) -> bool:
    if value is None or value == BRIDGE_SNAPSHOT:
        return True
    return Path(value).is_relative_to(Path.cwd() / "nemo_experiments")
