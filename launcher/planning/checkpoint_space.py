"""How large the checkpoints of a run will be, and whether there is space for them.

Bytes of a checkpoint: the weights once, in the type of the parameters, and the optimizer's state. The distributed
optimizer saves main weight and states in fp32, for every tensor- and pipeline-parallel rank its own copy of what these
do not split (core/optimizer/distrib_optimizer.py of megatron-core 0.16.1 and 0.19.2, `dp_reshardable`); other formats
save each parameter's state once. Files: each rank writes two shards (TorchDistSaveShardedStrategy, thread_count=2).
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher._util.errors import RequestError
from launcher.contract.disk_space import DiskSpace
from launcher.contract.units import bytes_text
from launcher.planning.memory import NotEstimatedError, parameters, pipeline
from launcher.planning.memory.dimensions import Dimensions, read_dimensions
from launcher.planning.memory.estimate import stage_parameters

_SHARDS_PER_RANK = 2
_SMALL_FILES = 8
"""Files besides the shards: .metadata, metadata.json, train_state.pt, run_config.yaml, manifest, tokenizer."""

_FORMATS = ("torch_dist", "fsdp_dtensor")
_CERTAIN = 1.05
"""How far an estimate may be off: only what exceeds a limit by more is refused."""


@dataclass(frozen=True)
class CheckpointSize:
    """The estimated size of a run's checkpoints, in bytes and files."""

    bytes: int
    files: int
    """Of one; at most."""
    saved: int
    """How many this attempt saves."""
    at_once: int
    """How many of them exist at the same time: those that are kept, and one that is being written."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for plan.json."""
        return {**dataclasses.asdict(self), "bytes_at_once": self.bytes * self.at_once}


def estimate(resolved: Mapping[str, Any], world_size: int, *, saves: bool = True, done: int = 0) -> CheckpointSize:
    """Estimate the checkpoints of a checked configuration.

    `done` is the iteration that the run continues from; without `saves` the user has switched saving off. Raises
    NotEstimatedError with the reason where a size is unknown.
    """
    sizes = read_dimensions(resolved, world_size)
    config = resolved["config"]
    checkpoint = config["checkpoint"] or {}
    if config.get("peft") is not None:
        raise NotEstimatedError("a checkpoint of adapters (peft) has no formula")
    if checkpoint.get("ckpt_format") not in _FORMATS:
        raise NotEstimatedError(f"checkpoint.ckpt_format={checkpoint.get('ckpt_format')} has no formula")
    count = parameters.whole_model(sizes)
    model = config["model"]
    mixed = bool(model["bf16"] or model["fp16"])
    size = count * (2 if mixed else 4)
    if checkpoint.get("save_optim") is not False and config["optimizer"]:
        size += _optimizer_bytes(config, sizes, count, mixed=mixed)
    saved, at_once = _numbers(config, checkpoint, done) if saves else (0, 0)
    return CheckpointSize(size, _files(checkpoint, sizes), saved, at_once, _notes(config))


def findings(size: CheckpointSize, space: DiskSpace | None) -> tuple[str, ...]:
    """Return warnings where the free space is too small.

    Raises RequestError where one checkpoint exceeds all that the file system or the quota could ever hold; free space
    may change before the job saves, so the lack of it is a warning.
    """
    if space is None or size.at_once == 0:
        return ()
    one = bytes_text(size.bytes)
    if size.bytes > _CERTAIN * space.most_bytes:
        what = "the quota" if space.most_bytes < space.total_bytes else "the file system"
        raise RequestError(
            f"a checkpoint of about {one} does not fit {what} of {space.directory}, "
            f"which holds {bytes_text(space.most_bytes)}",
            where="checkpoint.save",
            hint="save elsewhere with checkpoint.save=DIR, or leave the optimizer out with checkpoint.save_optim=false",
        )
    several, whole = size.at_once > 1, size.bytes * size.at_once
    kept = f"{size.at_once} checkpoints of about {one} each" if several else f"a checkpoint of about {one}"
    remedy = _remedy(size, space)
    found = []
    if whole > space.available_bytes:
        left = f"{bytes_text(space.available_bytes)} left{_of_quota(space)}"
        needs = f"need {bytes_text(whole)}" if several else "is to be saved"
        found.append(f"{kept} {needs}, and {space.directory} has {left}; {remedy}")
    files = space.available_files
    if files is not None and size.files * size.at_once > files:
        needed = size.files * size.at_once
        found.append(f"{kept}: up to {needed} files, and {space.directory} can take {files} more; {remedy}")
    return tuple(found)


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the rows of the plan for an estimate from plan.json."""
    one = f"about {bytes_text(found['bytes'])} in up to {found['files']} files"
    if not found["at_once"]:
        return [f"none is saved ({one} each)"]
    every = f"{found['saved']} saved, at most {found['at_once']} at once: {bytes_text(found['bytes_at_once'])}"
    return [f"{one} each; {every}", *found["notes"]]


def _optimizer_bytes(config: Mapping[str, Any], sizes: Dimensions, count: int, *, mixed: bool) -> int:
    optimizer, ddp, checkpoint = config["optimizer"], config["ddp"] or {}, config["checkpoint"]
    states = 1 if str(optimizer.get("optimizer")) in ("sgd", "lion") else 2
    distributed = bool(optimizer.get("use_distributed_optimizer") or ddp.get("use_distributed_optimizer"))
    # A main weight is saved where there is one; the distributed optimizer always has one.
    each = 4 * (states + (1 if mixed or distributed else 0))
    if not distributed or ddp.get("use_megatron_fsdp") or checkpoint.get("dist_ckpt_optim_fully_reshardable"):
        return count * each
    total = 0
    for stage in pipeline.stages(sizes, config["model"]):
        of_rank = stage_parameters(sizes, stage)
        total += of_rank.dense * sizes.parallel.tp + of_rank.expert * sizes.parallel.etp * sizes.parallel.ep
    return total * each


def _files(checkpoint: Mapping[str, Any], sizes: Dimensions) -> int:
    writers = sizes.parallel.world_size
    if checkpoint.get("fully_parallel_save") is False:
        writers = max(1, writers // sizes.parallel.dp)
    return _SHARDS_PER_RANK * writers + _SMALL_FILES


def _numbers(config: Mapping[str, Any], checkpoint: Mapping[str, Any], done: int) -> tuple[int, int]:
    """Return how many checkpoints are saved, and how many exist at once. Raises NotEstimatedError."""
    iterations, interval = config["train"].get("train_iters"), checkpoint.get("save_interval")
    if not isinstance(iterations, int):
        raise NotEstimatedError("train.train_iters is unknown, and so is the number of checkpoints")
    if interval == 0:  # nothing is saved, not even at the end
        return 0, 0
    left = max(0, iterations - done)
    saved = math.ceil(left / interval) if interval else min(1, left)
    kept = checkpoint.get("most_recent_k")
    # The oldest goes only when the newest is final.
    return saved, saved if kept is None or kept < 0 else min(saved, kept + 1)


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    optimizer, checkpoint = config["optimizer"] or {}, config["checkpoint"] or {}
    rows = (
        (optimizer.get("use_precision_aware_optimizer"), "the optimizer's state is counted in fp32"),
        ("muon" in str(optimizer.get("optimizer")), "the optimizer's state is counted as Adam's"),
        (checkpoint.get("ckpt_format") != "torch_dist", "no measurement confirms the size in this format"),
        (checkpoint.get("non_persistent_save_interval"), "non-persistent checkpoints are not counted"),
    )
    return tuple(text for holds, text in rows if holds)


def _of_quota(space: DiskSpace) -> str:
    return " of the quota" if space.available_bytes < space.free_bytes else ""


def _remedy(size: CheckpointSize, space: DiskSpace) -> str:
    if size.at_once > 1:
        fit = max(1, space.available_bytes // max(1, size.bytes) - 1)
        return f"free some space, or keep fewer with checkpoint.most_recent_k={min(fit, size.at_once - 1)}"
    return "free some space, or save elsewhere with checkpoint.save=DIR"
