"""Rules by which ranks, model, batch and sequence divide by the parallel sizes, for the plan and for the job.

The rules are megatron-core 0.19.2's: core/parallel_state.py (initialize_model_parallel), core/transformer/
transformer_config.py, core/num_microbatches_calculator.py and core/pipeline_parallel/schedules.py. Megatron states some
of them only when all processes have met and built the model.

A rule returns None where the sizes fit. TP, PP, CP, EP, ETP: tensor, pipeline, context, expert and expert-tensor
parallel size; VP: virtual pipeline size.
"""

from typing import NamedTuple, Optional

TP = "model.tensor_model_parallel_size"
PP = "model.pipeline_model_parallel_size"
CP = "model.context_parallel_size"
EP = "model.expert_model_parallel_size"
ETP = "model.expert_tensor_parallel_size"
VP = "model.virtual_pipeline_model_parallel_size"

UNEVEN_LAYERS = (
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "pipeline_model_parallel_layout",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
)
"""Fields of the model that spread layers over pipeline stages in another way than evenly."""


class Misfit(NamedTuple):
    """Sizes that do not fit together: one sentence, and what to do."""

    text: str
    hint: str


def ranks_by_model(world_size: int, tp: int, pp: int, cp: int) -> Optional[Misfit]:
    """Check that the ranks divide into copies of the model."""
    if world_size % (tp * pp * cp) == 0:
        return None
    return Misfit(
        f"{world_size} ranks cannot be divided by TP {tp} x PP {pp} x CP {cp} = {tp * pp * cp}",
        f"change {TP} and its siblings, or the number of nodes",
    )


def ranks_by_experts(world_size: int, etp: int, ep: int, pp: int) -> Optional[Misfit]:
    """Check that the ranks divide into copies of the experts."""
    if world_size % (etp * ep * pp) == 0:
        return None
    return Misfit(
        f"{world_size} ranks cannot be divided by ETP {etp} x EP {ep} x PP {pp} = {etp * ep * pp}",
        f"change {EP}, or the number of nodes",
    )


def batch(size: int, micro: int, data_parallel: int) -> Optional[Misfit]:
    """Check that each data-parallel rank gets a whole number of micro-batches of `micro` samples."""
    step = micro * data_parallel
    if size % step == 0:
        return None
    lower = size // step * step
    nearest = f"{lower} or {lower + step}" if lower else str(step)
    return Misfit(
        f"train.global_batch_size={size} is not a multiple of micro-batch size {micro} x data-parallel size "
        f"{data_parallel} = {step}",
        f"use a global batch size of {nearest}",
    )


def hidden_by_heads(hidden: int, heads: int) -> Optional[Misfit]:
    """Check that the hidden size divides by the heads, for heads without a width of their own."""
    if hidden % heads == 0:
        return None
    return Misfit(
        f"model.hidden_size={hidden} cannot be divided by model.num_attention_heads={heads}",
        "change one of the two, or set model.kv_channels",
    )


def heads_by_groups(heads: int, groups: int) -> Optional[Misfit]:
    """Check that attention heads divide into query groups."""
    if groups > 0 and heads % groups == 0:
        return None
    return Misfit(
        f"model.num_attention_heads={heads} cannot be divided by model.num_query_groups={groups}",
        f"model.num_query_groups {divisors(heads)} would do",
    )


def layers_by_stages(layers: int, pp: int, vp: int, world_size: int) -> Optional[Misfit]:
    """Check that layers divide evenly into pipeline stages and virtual stages; see UNEVEN_LAYERS."""
    if layers % (pp * vp) == 0:
        return None
    parts = f"{PP}={pp}" + (f" x {VP}={vp}" if vp > 1 else "")
    return Misfit(
        f"model.num_layers={layers} cannot be divided by {parts}" + (f" = {pp * vp}" if vp > 1 else ""),
        f"PP {divisors(layers // vp if layers % vp == 0 else layers, world_size)} would do; "
        "model.num_layers_in_first_pipeline_stage spreads layers unevenly",
    )


def virtual_stages(vp: int, pp: int) -> Optional[Misfit]:
    """Check that virtual stages have a pipeline."""
    if pp > 1 or vp <= 1:
        return None
    return Misfit(f"{VP}={vp} needs a pipeline, and {PP} is 1", f"leave it out, or set {PP}=2")


def experts_exist(ep: int, experts: Optional[int]) -> Optional[Misfit]:
    """Check that a model whose experts are split has experts."""
    if ep == 1 or experts is not None:
        return None
    return Misfit(f"{EP}={ep}, but the model has no experts (model.num_moe_experts is null)", f"set {EP}=1")


def experts_by_ranks(experts: int, ep: int, world_size: int) -> Optional[Misfit]:
    """Check that experts divide by EP."""
    if experts % ep == 0:
        return None
    return Misfit(
        f"model.num_moe_experts={experts} cannot be divided by {EP}={ep}",
        f"EP {divisors(experts, world_size)} would do",
    )


def chosen_experts(topk: int, experts: int) -> Optional[Misfit]:
    """Check that the router can choose as many experts as it is to choose."""
    if topk <= experts:
        return None
    return Misfit(
        f"model.moe_router_topk={topk} of model.num_moe_experts={experts} cannot be chosen",
        f"set model.moe_router_topk={experts} or less",
    )


def sequence_by_context(length: int, cp: int) -> Optional[Misfit]:
    """Check that context parallelism can halve each rank's part of a sequence."""
    part = 2 * cp
    if cp == 1 or length % part == 0:
        return None
    lower = length // part * part
    return Misfit(
        f"model.seq_length={length} cannot be divided by 2 x {CP}={cp}",
        f"use {f'{lower} or {lower + part}' if lower else part}",
    )


def divisors(value: int, world_size: Optional[int] = None) -> str:
    """Return the largest divisors of `value`, in words; those that a world of this size can have, if it is given."""
    most = value if world_size is None else min(value, world_size)
    found = [each for each in range(1, most + 1) if value % each == 0 and (world_size or each) % each == 0]
    return ", ".join(map(str, found[-4:])) or "1"
