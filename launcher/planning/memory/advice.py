"""The memory estimate in words: rows of the plan, and a warning with a remedy if it does not fit the GPU."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from launcher.planning.memory.dimensions import NotEstimatedError
from launcher.planning.memory.estimate import GIB, MemoryEstimate, StageMemory, estimate

GPU_GIB = {
    "V100": 31.74,
    "A100": 79.15,
    "H100": 79.18,
    "H200": 139.8,
    "B200": 178.35,
    "GB200": 184.31,
    "B300": 267.69,
    "GB300": 276.5,
}
"""Memory of each GPU as torch sees it, in GiB ("total capacity" of its message when memory runs out); for V100 and A100
the larger variant. Data sheets count 10^9 bytes, and what the driver reserves."""

_TERMS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "loss_or_backward": "logits and loss, or backward",
    "step": "gradients in fp32 for the optimizer's step",
    "communication": "communication",
}


def try_estimate(resolved: Mapping[str, Any], world_size: int) -> tuple[MemoryEstimate | None, str | None]:
    """Return the estimate of a checked configuration, or None and the reason why there is none."""
    try:
        return estimate(resolved, world_size), None
    except NotEstimatedError as error:
        return None, str(error)


def lines(memory: Mapping[str, Any]) -> list[str]:
    """Return the rows of the plan for an estimate from plan.json: the largest stage by kind, then the total of each."""
    stages, worst = memory["stages"], memory["stages"][memory["worst_stage"]]
    parts = ", ".join(
        f"{text} {worst[name] / GIB:.1f}" for name, text in _counted(worst).items() if worst[name] >= GIB / 20
    )
    where = f"stage {worst['stage']} of {len(stages)}, the largest: " if len(stages) > 1 else ""
    rows = [
        f"{worst['total'] / GIB:.1f} GiB at the peak by torch's count, {memory['needed'] / GIB:.1f} with CUDA and NCCL",
        f"{where}{parts}",
    ]
    if len(stages) > 1:
        rows.append("all stages: " + ", ".join(f"{stage['total'] / GIB:.1f}" for stage in stages))
    return [*rows, *memory["notes"]]


def warnings(memory: MemoryEstimate, resolved: Mapping[str, Any], gpu: str | None) -> tuple[str, ...]:
    """Return a warning if the estimate exceeds the memory of the GPU; the plan is not refused for it."""
    has = GPU_GIB.get((gpu or "").upper())
    if has is None or memory.needed <= has * GIB:
        return ()
    worst = memory.worst
    return (
        f"memory: an estimate of {memory.needed / GIB:.1f} GiB (stage {worst.stage}) does not fit the "
        f"{has:.1f} GiB of a GPU of type {gpu}; mostly {_largest(worst)}. {_remedy(worst, resolved)}",
    )


def _largest(worst: StageMemory) -> str:
    by_size = sorted(_counted(dataclasses.asdict(worst)), key=lambda name: getattr(worst, name), reverse=True)[:2]
    return " and ".join(f"{_TERMS[name]} {getattr(worst, name) / GIB:.1f}" for name in by_size)


def _counted(stage: Mapping[str, Any]) -> dict[str, str]:
    """Return the terms of the peak: either the backward pass or the optimizer step."""
    backward = ("activations", "loss_or_backward")
    gone = backward if stage["step"] > sum(stage[name] for name in backward) else ("step",)
    return {name: text for name, text in _TERMS.items() if name not in gone}


def _remedy(worst: StageMemory, resolved: Mapping[str, Any]) -> str:
    """Return which settings reduce the largest term, without those that are already in use."""
    config = resolved["config"]
    model, ddp = config["model"], config["ddp"] or {}
    states = worst.weights + worst.gradients + worst.optimizer + worst.step
    ways: list[str] = []
    if states >= worst.activations + worst.loss_or_backward:
        if not ddp.get("use_distributed_optimizer"):
            ways.append("ddp.use_distributed_optimizer=true and optimizer.use_distributed_optimizer=true")
        if model["num_moe_experts"]:
            ways.append("a larger model.expert_model_parallel_size")
        ways.append("a larger model.tensor_model_parallel_size or model.pipeline_model_parallel_size")
    elif worst.loss_or_backward > worst.activations:
        ways += _smaller_batch(resolved)
        ways += ["a larger model.tensor_model_parallel_size", "a larger model.context_parallel_size"]
    else:
        ways += _smaller_batch(resolved)
        if model["recompute_granularity"] != "full":
            ways.append("model.recompute_granularity=full model.recompute_method=uniform model.recompute_num_layers=1")
        if (model["tensor_model_parallel_size"] or 1) > 1 and not model["sequence_parallel"]:
            ways.append("model.sequence_parallel=true")
        ways.append("a larger model.context_parallel_size")
    return f"To reduce it: {'; '.join(ways)}."


def _smaller_batch(resolved: Mapping[str, Any]) -> list[str]:
    size = resolved.get("micro_batch_size") or 1
    return [f"train.micro_batch_size={size // 2}"] if size > 1 else []
