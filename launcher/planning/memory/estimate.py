"""The estimate: bytes of each kind on one rank of each pipeline stage, and the fullest of the stages."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.planning.memory import activations, parameters, pipeline
from launcher.planning.memory.dimensions import Dimensions, read
from launcher.planning.memory.parameters import Count
from launcher.planning.memory.pipeline import Stage
from launcher.planning.memory.state import PerParameter, per_parameter

GIB = 2**30

_WORKSPACE = 64 * 2**20
"""cuBLAS' workspaces of torch and Transformer Engine, 32 MiB each on Hopper (torch.backends.cuda, module/base.py)."""

_CONTEXT = 640 * 2**20
"""What a process takes of a GPU before its first tensor: CUDA context and kernels. Not measured by torch."""

_COMMUNICATORS = 1 * GIB
"""NCCL's buffers of a run with several ranks, outside torch's allocator; they differ with the number of groups."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one rank of a pipeline stage. `total` is what torch reports at its peak (max_memory_allocated)."""

    stage: int
    layers: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of all micro-batches that the stage holds at once."""
    loss_or_backward: int
    """What comes on top at the fullest moment: logits and loss, or a layer's backward pass with what it recomputes."""
    communication: int
    step: int = 0
    """What the optimizer takes while it steps, when activations are gone."""

    @property
    def total(self) -> int:
        """The larger of the two moments: backward pass, and optimizer step."""
        kept = self.weights + self.gradients + self.optimizer + self.communication
        return kept + max(self.activations + self.loss_or_backward, self.step)


@dataclass(frozen=True)
class MemoryEstimate:
    """The estimate of a run: its stages, and what the formulas leave out of this configuration."""

    stages: tuple[StageMemory, ...]
    outside: int
    """Bytes of the GPU that torch's allocator does not know: CUDA context and NCCL."""
    model_parameters: int
    notes: tuple[str, ...]

    @property
    def worst(self) -> StageMemory:
        """The fullest stage."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def needed(self) -> int:
        """Bytes of a GPU that the fullest stage takes."""
        return self.worst.total + self.outside

    def to_dict(self) -> dict[str, Any]:
        """Plain values for plan.json, in bytes."""
        stages = [{**dataclasses.asdict(stage), "total": stage.total} for stage in self.stages]
        return {**dataclasses.asdict(self), "stages": stages, "worst_stage": self.worst.stage, "needed": self.needed}


def estimate(resolved: Mapping[str, Any], world_size: int) -> MemoryEstimate:
    """The memory of a checked configuration on `world_size` ranks. Raises NotEstimatedError where no formula fits."""
    sizes = read(resolved, world_size)
    config = resolved["config"]
    spent = per_parameter(config)
    trained = config.get("peft") is None
    stages = tuple(
        _stage(sizes, stage, spent, config["model"], trained=trained)
        for stage in pipeline.stages(sizes, config["model"])
    )
    outside = _CONTEXT + (_COMMUNICATORS if world_size > 1 else 0)
    return MemoryEstimate(stages, outside, parameters.whole_model(sizes), _notes(config))


def _stage(
    sizes: Dimensions, stage: Stage, spent: PerParameter, model: Mapping[str, Any], *, trained: bool
) -> StageMemory:
    count = stage_parameters(sizes, stage)
    # Context-parallel ranks hold the same weights, so they share the optimizer's state too.
    ranks, expert_ranks = sizes.parallel.dp * sizes.parallel.cp, sizes.parallel.expert_dp
    kept, working = _activations(sizes, stage, model)
    return StageMemory(
        stage=stage.rank,
        layers=len(stage.layers),
        parameters=count.all,
        weights=round(count.dense * spent.weight_on(ranks) + count.expert * spent.weight_on(expert_ranks)),
        gradients=round(count.dense * spent.gradient_on(ranks) + count.expert * spent.gradient_on(expert_ranks))
        if trained
        else 0,
        optimizer=round(count.dense * spent.optimizer_on(ranks) + count.expert * spent.optimizer_on(expert_ranks))
        if trained
        else 0,
        activations=kept,
        loss_or_backward=working,
        communication=_communication(sizes),
        step=round(count.dense * spent.step_on(ranks) + count.expert * spent.step_on(expert_ranks)) if trained else 0,
    )


def stage_parameters(sizes: Dimensions, stage: Stage) -> Count:
    """Parameters on one rank of a stage; a tied embedding is there twice where first and last stage differ."""
    count = sum((parameters.layer(sizes, index) for index in stage.layers), Count())
    if stage.first:
        count += parameters.embedding(sizes)
    if stage.last:
        count += parameters.ending(sizes, own_output=not (sizes.tied and stage.first))
    return count


def _activations(sizes: Dimensions, stage: Stage, model: Mapping[str, Any]) -> tuple[int, int]:
    """What all held micro-batches keep, and what comes on top at the fullest moment."""
    held = pipeline.held(sizes, stage, model)
    full, again = 0, 0
    for chunk in stage.chunks:
        kept, working = _chunk(sizes, chunk)
        full += kept
        again = max(again, working)
    backward = again + max((activations.backward(sizes, index) for index in stage.layers), default=0)
    # `held` chunks of those that the stage has, each as large as their mean.
    kept = full * held // len(stage.chunks)
    if not stage.last:
        return kept, backward
    extra = activations.ending(sizes)
    if sizes.mtp:
        extra += sizes.mtp * (activations.layer(sizes, sizes.layers - 1) + 2 * activations.checkpoint(sizes))
    return kept + extra, max(activations.loss(sizes), backward)


def _chunk(sizes: Dimensions, chunk: tuple[int, ...]) -> tuple[int, int]:
    """Bytes that one micro-batch keeps in a chunk, and what its backward pass computes again at a time.

    `uniform` keeps the input of every group of layers, `block` those of the first layers and all of the others
    (core/transformer/transformer_block.py, _checkpointed_forward).
    """
    whole = [activations.layer(sizes, index) for index in chunk]
    recompute = sizes.recompute
    if recompute.granularity != "full" or not chunk:
        return sum(whole), 0
    number = min(recompute.layers, len(chunk))
    if recompute.method == "block":
        return number * activations.checkpoint(sizes) + sum(whole[number:]), max(whole[:number], default=0)
    groups = [sum(whole[start : start + number]) for start in range(0, len(whole), number)]
    return len(groups) * activations.checkpoint(sizes), max(groups)


def _communication(sizes: Dimensions) -> int:
    """The gathered sequence (core/utils.py, GlobalMemoryBuffer), a stage's neighbour's tensor, dispatched tokens."""
    whole = sizes.width * sizes.hidden * sizes.tokens
    found = _WORKSPACE
    if sizes.parallel.sequence:
        found += whole
    if sizes.parallel.pp > 1:
        found += whole // sizes.parallel.spread
    if sizes.experts is not None and sizes.parallel.ep > 1:
        found += sizes.width * sizes.hidden * activations.routed(sizes, sizes.experts)
    if sizes.parallel.cp > 1 and sizes.attention.latent is None:
        # Keys and values of the neighbour, and those on the way: two buffers (ring attention).
        keys = parameters.own_heads(sizes.attention, sizes.parallel.tp)[1]
        found += 2 * sizes.width * 2 * keys * sizes.tokens
    return found


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What this configuration has that the formulas leave out or that no measurement backs."""
    model, optimizer = config["model"], config["optimizer"] or {}
    rows = (
        (config.get("peft"), "adapters, their gradients and their optimizer state are not counted"),
        (model["fp8"] or model["fp4"], "inputs kept in 8 or 4 bits are counted as if in 16"),
        (
            model["cpu_offloading"] or model["fine_grained_activation_offloading"],
            "offloaded activations are counted as if kept",
        ),
        (model["cuda_graph_impl"] not in (None, "none"), "memory of CUDA graphs is not counted"),
        (model["num_moe_experts"], "experts are taken as evenly loaded; the fullest rank can need much more"),
        ("muon" in str(optimizer.get("optimizer")), "the optimizer's state is counted as Adam's"),
    )
    return tuple(text for holds, text in rows if holds)
