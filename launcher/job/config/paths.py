"""Where a run's files go, and which checkpoint an attempt starts from.

Bridge's recipes write to `os.getcwd()/nemo_experiments/default`, and load from there what an earlier run has left. The
launcher moves all of it into the run directory, unless the user chose otherwise, and only a later attempt of the same
run loads anything.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ...contract import checkpoints
from ...contract.next_attempt import follows_by_itself
from ...contract.paths import attempt_name
from ...contract.records.checkpoints import CheckpointChoice, VerifyMode
from ..errors import UserError
from ..model.shared_sums import SharedSums
from ..rank import Rank
from . import choices

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


def loads(rank: Rank, load: bool) -> bool:
    """Return whether this attempt may load a checkpoint: a later one, or one that was allowed to (`load`)."""
    return load or int(rank.attempt) > 0


def likely_checkpoints(rank: Rank, overrides: Mapping[str, Any]) -> Optional[Path]:
    """Return the directory that a later attempt continues from unless the recipe names another; None if unknown."""
    if int(rank.attempt) == 0:
        return None
    named = overrides.get("checkpoint.save")
    if named is None:
        return rank.run_paths.checkpoints
    return None if not isinstance(named, str) or _is_remote(named) or "${" in named else Path(named)


def stop_on_signal(config: Any, keys: frozenset[str]) -> None:
    """Let a signal save and stop the run, unless the user overrode that.

    Slurm signals every process of a step. A DataLoader worker that dies from it makes its rank raise in the middle of
    saving, so the workers ignore the signal too.
    """
    for name in ("exit_signal_handler", "exit_signal_handler_for_dataloader"):
        if not is_overridden(f"train.{name}", keys):
            setattr(config.train, name, True)


def choose_checkpoint(
    config: Any,
    rank: Rank,
    keys: frozenset[str],
    load: bool,
    verify: VerifyMode = "budget",
    sums: Optional[SharedSums] = None,
) -> Optional[CheckpointChoice]:
    """Set in `config.checkpoint` what this attempt loads; return the record of it where files were looked at.

    Attempt 000 loads nothing, or what the user named in `checkpoint.load` and allowed (`load`). A later attempt
    continues from the newest whole checkpoint of the run, wherever the tracker points; where none was saved yet, it
    starts as attempt 000 did. Rank 0 verifies (`verify`, the work shared by
    `sums`) and chooses, and the others follow its record. Raises
    UserError where a new run would load a checkpoint without permission, a permitted one does not exist or is damaged,
    or no checkpoint of the run is whole.
    """
    section = config.checkpoint
    named = is_overridden("checkpoint.ckpt_step", keys) and not _continues_by_itself(rank)
    step: Optional[int] = section.ckpt_step if named else None
    later = int(rank.attempt) > 0 and section.save
    if later and _is_remote(section.save):
        # Only Bridge can read remote paths; without a step it loads what its tracker names.
        section.load, section.ckpt_step, section.finetune = section.save, step, False
        return None
    if not later and not (load and section.load and not _is_default(section.load) and not _is_remote(section.load)):
        section.load = _first_load(section.load, load)
        return None
    choice = choices.agreed(rank, verify, lambda: _choose(section, rank, step, load, bool(later), verify, sums))
    section.load = choice["load"]
    if choice["resumed"] or choice["ckpt_step"] is not None:
        section.ckpt_step = choice["ckpt_step"]
    if choice["resumed"]:
        # Fine-tuning resets iteration and optimizer on load: right for initial weights, wrong for the run's own
        # checkpoint.
        section.finetune = False
    return choice


def _continues_by_itself(rank: Rank) -> bool:
    """Return whether the attempt before belongs to the same submission: a step that was named counted for that one."""
    before = int(rank.attempt) - 1
    return before >= 0 and follows_by_itself(rank.run_paths.attempt_paths(attempt_name(before)), rank.paths)


def _choose(
    section: Any,
    rank: Rank,
    step: Optional[int],
    load: bool,
    later: bool,
    verify: VerifyMode,
    sums: Optional[SharedSums],
) -> CheckpointChoice:
    if later:
        choice = choices.resumed(rank, Path(section.save), step, section.ckpt_format, verify, sums)
        if choice["iteration"] is not None:
            return choice
    wish = _first_load(section.load, load)
    if wish is None or _is_remote(wish):
        return choices.record(load=wish)
    return choices.allowed(rank, Path(wish), section.ckpt_step, section.ckpt_format, verify, sums)


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


def _is_remote(path: str) -> bool:
    return "://" in path


def _is_default(value: Optional[str]) -> bool:
    if value is None or value == BRIDGE_SNAPSHOT:
        return True
    return Path(value).is_relative_to(Path.cwd() / "nemo_experiments")
