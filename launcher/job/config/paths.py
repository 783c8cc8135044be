"""Where a run's files go, and which checkpoint an attempt starts from.

Bridge's recipes write to `os.getcwd()/nemo_experiments/default`, and load from there what a former run has left. Here
all of it goes into the run directory unless the user said otherwise, and only a later attempt of the same run loads
anything.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from ..errors import UserError
from ..model import checkpoints
from ..rank import Rank

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
        "checkpoint.save": rank.run_paths.checkpoints,
        "logger.tensorboard_dir": rank.run_paths.tensorboard,
        "logger.save_config_filepath": rank.paths.config,
        "profiling.memory_snapshot_path": rank.paths.profiles / "memory.pickle",
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


def choose_checkpoint(config: Any, rank: Rank, keys: frozenset[str], load: bool) -> None:
    """Set in `config.checkpoint` what this attempt loads.

    Attempt 000 loads nothing, or what the user named in `checkpoint.load` and allowed (`load`). A later attempt
    continues from the newest complete checkpoint of the run, wherever the tracker points; where nothing was saved yet
    it starts as attempt 000 did.
    Raises UserError where a new run would load a checkpoint that nobody allowed, or an allowed one is not there.
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
        what = "may hold a checkpoint (only files can be looked at)" if _is_remote(wish) else "holds a checkpoint"
        raise UserError(
            f"checkpoint.load={wish} {what}, and a new run loads none by accident",
            where="checkpoint.load",
            hint="allow it with --load, or continue the run that wrote it with --resume",
        )
    if load:
        raise UserError(f"--load was given and checkpoint.load={wish} holds no checkpoint", where="checkpoint.load")
    return None


def _resume(section: Any, keys: frozenset[str]) -> bool:
    """Set what continues the run; False where it has saved nothing yet."""
    step: Optional[int] = section.ckpt_step if is_overridden("checkpoint.ckpt_step", keys) else None
    if _is_remote(section.save):
        # Only Bridge can look there; without a step it takes what its tracker names.
        section.load, section.ckpt_step = section.save, step
    else:
        directory = Path(section.save)
        step = _complete_step(directory, section.ckpt_format) if step is None else step
        if step is None:
            return False
        # Without a tracker Bridge starts from nothing and does not say so; an iteration's own directory needs none.
        tracked = checkpoints.has_tracker(directory)
        section.load = str(directory if tracked else directory / f"iter_{step:07d}")
        section.ckpt_step = step if tracked else None
    # Fine-tuning resets iteration and optimizer on load: right for a first attempt's weights, wrong for the run's own.
    section.finetune = False
    return True


def _complete_step(directory: Path, ckpt_format: str) -> Optional[int]:
    step = checkpoints.newest_complete(directory, ckpt_format)
    if step is None and checkpoints.has_tracker(directory):
        found = ", ".join(str(number) for number, _ in checkpoints.iterations(directory)) or "none"
        raise UserError(
            f"this run has saved checkpoints in {directory}, and none of them is complete (iterations: {found})",
            where=str(directory),
            hint="name one with checkpoint.ckpt_step=N, or start a new run: this one would begin from nothing",
        )
    return step


def _is_remote(place: str) -> bool:
    return "://" in place


def _is_default(value: Optional[str]) -> bool:
    if value is None or value == BRIDGE_SNAPSHOT:
        return True
    return Path(value).is_relative_to(Path.cwd() / "nemo_experiments")
