"""The memory estimate: bytes of each kind on one rank of each pipeline stage, and the largest stage."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.planning.memory import activations, parameters, pipeline
from launcher.planning.memory.dimensions import Dimensions, read_dimensions
from launcher.planning.memory.parameters import Count
from launcher.planning.memory.pipeline import Stage
from launcher.planning.memory.state import PerParameter, per_parameter

GIB = 2**30

_WORKSPACE = 64 * 2**20
"""cuBLAS' workspaces of torch and Transformer Engine, 32 MiB each on Hopper (torch.backends.cuda, module/base.py)."""

_CONTEXT = 640 * 2**20
"""Memory that a process occupies before its first tensor: CUDA context and kernels. torch does not count it."""

_COMMUNICATORS = 1 * GIB
"""NCCL's buffers in a run with several ranks, outside torch's allocator; they vary with the number of groups."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one rank of a pipeline stage. `total` estimates torch's max_memory_allocated."""

    stage: int
    layers: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Activations of all micro-batches that are in flight at once."""
    loss_or_backward: int
    """Additional memory at the peak: logits and loss, or a layer's backward pass with what it recomputes."""
    communication: int
    step: int = 0
    """Temporary memory of the optimizer step, when no activations are left."""

    @property
    def total(self) -> int:
        """Return the peak: the larger of backward pass and optimizer step."""
        kept = self.weights + self.gradients + self.optimizer + self.communication
        return kept + max(self.activations + self.loss_or_backward, self.step)


@dataclass(frozen=True)
class MemoryEstimate:
    """The estimate of a run: its stages, and notes on what the formulas leave out."""

    stages: tuple[StageMemory, ...]
    outside: int
    """Bytes outside torch's allocator: CUDA context and NCCL."""
    model_parameters: int
    notes: tuple[str, ...]

    @property
    def worst(self) -> StageMemory:
        """Return the stage that needs most memory."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def needed(self) -> int:
        """Return the bytes of GPU memory that the largest stage needs."""
        return self.worst.total + self.outside

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for plan.json, in bytes."""
        stages = [{**dataclasses.asdict(stage), "total": stage.total} for stage in self.stages]
        return {**dataclasses.asdict(self), "stages": stages, "worst_stage": self.worst.stage, "needed": self.needed}


def estimate(resolved: Mapping[str, Any], world_size: int) -> MemoryEstimate:
    """Estimate the memory of a checked configuration on `world_size` ranks.

    Raises NotEstimatedError for a kind of model that the formulas do not cover.
    """
    sizes = read_dimensions(resolved, world_size)
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
    # Context-parallel ranks hold the same weights, so the optimizer's state is sharded over them as well.
    ranks, expert_ranks = sizes.parallel.dp * sizes.parallel.cp, sizes.parallel.expert_dp
    kept, backward, loss = _activations(sizes, stage, model)
    # Either the loss or the backward pass of a layer is the peak, each with the weights that FSDP has gathered then.
    working, gathered = max(
        (backward, _gathered(sizes, stage, count, spent, layers=2)),
        (loss, _gathered(sizes, stage, count, spent, layers=0)),
        key=sum,
    )
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
        communication=_communication(sizes) + gathered,
        step=round(count.dense * spent.step_on(ranks) + count.expert * spent.step_on(expert_ranks)) if trained else 0,
    )


def stage_parameters(sizes: Dimensions, stage: Stage) -> Count:
    """Count the parameters on one rank of a stage; first and last stage each hold a copy of a tied embedding."""
    count = sum((parameters.layer(sizes, index) for index in stage.layers), Count())
    if stage.first:
        count += parameters.embedding(sizes)
    if stage.last:
        count += parameters.output_stage(sizes, own_output=not (sizes.tied and stage.first))
    return count


def _activations(sizes: Dimensions, stage: Stage, model: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the bytes saved by all micro-batches in flight, and what a layer's backward pass and the loss add."""
    chunks_in_flight = pipeline.chunks_in_flight(sizes, stage, model)
    full, again = 0, 0
    for chunk in stage.chunks:
        kept, working = _chunk(sizes, chunk)
        full += kept
        again = max(again, working)
    backward = again + max((activations.backward(sizes, index) for index in stage.layers), default=0)
    # Each chunk in flight is counted with the mean size of the stage's chunks.
    kept = full * chunks_in_flight // len(stage.chunks)
    if not stage.last:
        return kept, backward, 0
    extra = activations.output_stage(sizes)
    if sizes.mtp:
        extra += sizes.mtp * (activations.layer(sizes, sizes.layers - 1) + 2 * activations.checkpoint(sizes))
    return kept + extra, backward, activations.loss(sizes)


def _chunk(sizes: Dimensions, chunk: tuple[int, ...]) -> tuple[int, int]:
    """Return the bytes that one micro-batch saves in a chunk, and those recomputed at a time in its backward pass.

    `uniform` saves the input of every group of layers; `block` saves the inputs of the first layers and all activations
    of the others (core/transformer/transformer_block.py, _checkpointed_forward).
    """
    whole = [activations.layer(sizes, index) for index in chunk]
    recompute = sizes.recompute
    if sizes.offload.layers:
        # Offloading needs a single pipeline stage. Of the first layers, which are offloaded, one leaves the GPU or
        # comes back while its neighbour runs; the others' activations do not exist yet then, or are gone.
        others = sum(whole[sizes.offload.layers :])
        return others, max(0, 2 * max(whole[: sizes.offload.layers], default=0) - others)
    if recompute.granularity != "full" or not chunk:
        return sum(whole), 0
    number = min(recompute.layers, len(chunk))
    if recompute.method == "block":
        return number * activations.checkpoint(sizes) + sum(whole[number:]), max(whole[:number], default=0)
    groups = [sum(whole[start : start + number]) for start in range(0, len(whole), number)]
    return len(groups) * activations.checkpoint(sizes), max(groups)


def _communication(sizes: Dimensions) -> int:
    """Return the bytes of communication buffers.

    They hold the gathered sequence (core/utils.py, GlobalMemoryBuffer), the tensor of the neighbouring stage,
    dispatched tokens, and keys and values under context parallelism.
    """
    whole = sizes.width * sizes.hidden * sizes.tokens
    found = _WORKSPACE
    if sizes.parallel.sequence:
        found += whole
    if sizes.parallel.pp > 1:
        found += whole // sizes.parallel.sequence_shards
    if sizes.experts is not None and sizes.parallel.ep > 1:
        found += sizes.width * sizes.hidden * activations.routed_rows(sizes, sizes.experts)
    if sizes.parallel.cp > 1 and sizes.attention.latent is None:
        # Keys and values of the neighbour, and those being sent: two buffers (ring attention).
        keys = parameters.local_widths(sizes.attention, sizes.parallel.tp)[1]
        found += 2 * sizes.width * 2 * keys * sizes.tokens
    return found


def _gathered(sizes: Dimensions, stage: Stage, count: Count, spent: PerParameter, *, layers: int) -> int:
    """Return the bytes of weights that FSDP gathers: of `layers` in the backward pass, and of the output layer.

    Their gradients exist whole until they are reduced (core/distributed/fsdp/src/megatron_fsdp).
    """
    if not spent.shard_weight:
        return 0
    layer = max((parameters.layer(sizes, index).all for index in stage.layers), default=0)
    outside = count.all - sum(parameters.layer(sizes, index).all for index in stage.layers)
    each = spent.weight + (spent.gradient if spent.shard_gradient else 0)
    # Before the backward pass the last layer's weights stay, or are gathered again, without gradients.
    waiting = 0 if layers else spent.weight * layer
    return round((layers * layer + outside) * each + waiting)


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return notes on features of this configuration that the formulas leave out or no measurement confirms."""
    model, optimizer = config["model"], config["optimizer"] or {}
    rows = (
        (
            model["padded_vocab_size"] is None,
            "the vocabulary is the published model's; the run's, which its tokenizer decides, may be a little smaller",
        ),
        (config.get("peft"), "adapters, their gradients and their optimizer state are not counted"),
        (model["cuda_graph_impl"] not in (None, "none"), "memory of CUDA graphs is not counted"),
        (model["num_moe_experts"], "the experts are assumed to be evenly loaded; the busiest rank can need much more"),
        ("muon" in str(optimizer.get("optimizer")), "the optimizer's state is counted as Adam's"),
    )
    return tuple(text for holds, text in rows if holds)
