"""Rules about parallel sizes: whether they divide model, batch and sequence.

Rules that the job also checks are in contract/parallel_sizes.py. Source of those here: megatron-core 0.19.2
(core/model_parallel_config.py, core/tensor_parallel/layers.py, core/pipeline_parallel/schedules.py).
"""

from collections.abc import Iterator

from launcher.contract import parallel_sizes
from launcher.contract.parallel_sizes import Misfit, divisors
from launcher.planning.preflight.findings import ConfigView, Finding, refused

_UNEVEN = ("model.pipeline_layout", *(f"model.{name}" for name in parallel_sizes.UNEVEN_LAYERS))
_TP = "tensor_model_parallel_size"
_PP = "pipeline_model_parallel_size"
_CP = "context_parallel_size"
_VP = "virtual_pipeline_model_parallel_size"
_EP = "expert_model_parallel_size"
_ETP = "expert_tensor_parallel_size"
_MANY_MICROBATCHES = 256
_MANY_BY_STAGE = 64
"""Micro-batches of a step for each pipeline stage, of which a pipeline needs many: the most in NVIDIA's published runs
(performance-summary-archive.md of NVIDIA-NeMo/Megatron-Bridge 067f987: Qwen3 235B on 256 H100, PP 8, 512 in all)."""
_BUBBLE = 0.3
"""The share of a step that stages are idle, from which it is reported."""


def tensor(view: ConfigView) -> Iterator[Finding]:
    """Check that TP divides heads, key-value heads, widths and vocabulary."""
    tp = view.size(_TP)
    if tp is None or tp == 1:
        return
    for name in ("num_attention_heads", "ffn_hidden_size", "padded_vocab_size"):
        value = view.number(f"model.{name}")
        if value is not None and value % tp:
            hint = f"TP {divisors(value, view.world_size)} would do"
            if name == "padded_vocab_size":
                name, hint = "vocab_size", f"the next multiple is {-(-value // tp) * tp}; {hint}"
            yield refused(f"model.{name}={value} cannot be divided by model.{_TP}={tp}", hint)
    groups = view.number("model.num_query_groups")
    if groups is not None and groups % tp and tp % groups:
        yield refused(
            f"model.num_query_groups={groups} is neither a multiple nor a divisor of model.{_TP}={tp}",
            f"TP {divisors(groups, view.world_size)} would do",
        )
    elif groups is not None and tp > groups:
        yield Finding(
            f"model.{_TP}={tp} is more than model.num_query_groups={groups}: keys and values are computed "
            f"{tp // groups} times",
            f"TP {groups} with more data parallelism is cheaper if it fits in memory",
        )


def width(view: ConfigView) -> Iterator[Finding]:
    """Check that heads divide the hidden size if kv_channels is not set; check head groups and chosen experts."""
    hidden, heads = view.number("model.hidden_size"), view.number("model.num_attention_heads")
    channels_known = "model.kv_channels" in view.values and view.flag("model.multi_latent_attention") is False
    if hidden and heads and channels_known and view.values["model.kv_channels"] is None:
        yield from _refused(parallel_sizes.hidden_by_heads(hidden, heads))
    groups = view.number("model.num_query_groups")
    if heads and groups:
        yield from _refused(parallel_sizes.heads_by_groups(heads, groups))
    experts, topk = view.number("model.num_moe_experts"), view.number("model.moe_router_topk")
    if experts and topk:
        yield from _refused(parallel_sizes.chosen_experts(topk, experts))


def sequence_parallelism(view: ConfigView) -> Iterator[Finding]:
    """Check that sequence parallelism has TP and divides the sequence, and that experts with TP use it."""
    tp, parallel = view.size(_TP), view.flag("model.sequence_parallel")
    if tp == 1 and parallel:
        # Not refused: some of Bridge's recipes set it, and its models unset it (models/transformer_config.py).
        yield Finding(
            f"model.sequence_parallel=true needs tensor parallelism, and model.{_TP} is 1",
            f"set model.sequence_parallel=false, or model.{_TP}=2",
        )
    if tp is not None and tp > 1 and parallel is False and view.number("model.num_moe_experts"):
        yield refused(
            f"a mixture of experts with model.{_TP}={tp} needs model.sequence_parallel=true (moe_layer.py requires it)"
        )
    length, cp = view.number("model.seq_length"), view.size(_CP)
    if length is None:
        return
    if cp is not None and (misfit := parallel_sizes.sequence_by_context(length, cp)):
        yield from _refused(misfit)
    elif tp is not None and tp > 1 and parallel and cp is not None and length // cp % tp:
        yield refused(
            f"model.seq_length={length} / model.{_CP}={cp} cannot be divided by model.{_TP}={tp}, which sequence "
            "parallelism requires",
            f"use {(length // (cp * tp) + 1) * cp * tp}",
        )


def pipeline(view: ConfigView) -> Iterator[Finding]:
    """Check that stages and virtual stages divide the layers, and that VP has PP."""
    layers, pp = view.number("model.num_layers"), view.size(_PP)
    vp = view.number(f"model.{_VP}") or 1
    if pp == 1 and vp > 1:
        yield from _refused(parallel_sizes.virtual_stages(vp, pp))
        return
    if layers is None or pp is None or any(view.values.get(key) for key in _UNEVEN):
        return
    misfit = parallel_sizes.layers_by_stages(layers, pp, vp, view.world_size)
    if misfit is not None and view.complete:
        yield from _refused(misfit)
    elif misfit is not None:
        yield Finding(misfit.text, f"{misfit.hint.partition(';')[0]}, unless the recipe spreads layers unevenly")


def experts(view: ConfigView) -> Iterator[Finding]:
    """Check that EP divides the experts and ETP their width, and that EP has experts."""
    number, ep = view.number("model.num_moe_experts"), view.size(_EP)
    if ep is None:
        return
    if view.complete:
        yield from _refused(parallel_sizes.experts_exist(ep, number))
    if number is None:
        return
    yield from _refused(parallel_sizes.experts_by_ranks(number, ep, view.world_size))
    wide, etp = view.number("model.moe_ffn_hidden_size"), view.number(f"model.{_ETP}")
    if wide and etp and wide % etp:
        yield refused(f"model.moe_ffn_hidden_size={wide} cannot be divided by model.{_ETP}={etp}")
    if number > 1 and view.gpus and view.flag("model.moe_grouped_gemm") is False:
        yield Finding(
            f"model.moe_grouped_gemm=false computes the {max(1, number // ep)} experts of a rank one after another",
            "set model.moe_grouped_gemm=true",
        )


def mixed_layers(view: ConfigView) -> Iterator[Finding]:
    """Warn of a pattern of dense and mixture layers that has no effect."""
    pattern, spec = view.values.get("model.moe_layer_freq", 1), view.values.get("model.layer_spec")
    some_dense = 0 in pattern if isinstance(pattern, list) else pattern != 1
    if not view.number("model.num_moe_experts") or not some_dense:
        return
    from launcher.planning.memory.dimensions import has_uniform_layers  # few plans need the package

    if has_uniform_layers({"layer_spec": spec}):
        yield Finding(
            f"model.moe_layer_freq={pattern} has no effect: {spec} makes every layer a mixture",
            "let the recipe set model.transformer_layer_spec to megatron-core's get_gpt_decoder_block_spec",
        )


def ranks(view: ConfigView) -> Iterator[Finding]:
    """Check that TP x PP x CP and ETP x EP x PP divide the world size."""
    tp, pp, cp, ep = (view.size(name) for name in (_TP, _PP, _CP, _EP))
    if tp and pp and cp:
        yield from _refused(parallel_sizes.ranks_by_model(view.world_size, tp, pp, cp))
    etp = view.number(f"model.{_ETP}")
    if etp and ep and pp and ep > 1:
        yield from _refused(parallel_sizes.ranks_by_experts(view.world_size, etp, ep, pp))


def microbatches(view: ConfigView) -> Iterator[Finding]:
    """Check that micro-batch size x DP divides the global batch; warn of idle stages and of very large batches."""
    tp, pp, cp = (view.size(name) for name in (_TP, _PP, _CP))
    micro, batch = view.number("train.micro_batch_size"), view.number("train.global_batch_size")
    if not (tp and pp and cp and micro and batch) or view.world_size % (tp * pp * cp):
        return
    data = view.world_size // (tp * pp * cp)
    misfit = parallel_sizes.batch(batch, micro, data)
    if misfit is not None:
        yield from _refused(misfit)
        return
    number = batch // (micro * data)
    yield from _schedule(view, number, pp, view.number(f"model.{_VP}") or 1)
    if number >= _MANY_MICROBATCHES and number > _MANY_BY_STAGE * pp:
        yield Finding(
            f"each rank processes {number} micro-batches in a step: a global batch of {batch} is large for "
            f"{data} data-parallel ranks",
            f"on twice the nodes, train.global_batch_size={2 * batch} keeps {batch // data} samples per rank (weak "
            f"scaling), and {batch} takes half the time (strong scaling)",
        )


def _schedule(view: ConfigView, number: int, pp: int, vp: int) -> Iterator[Finding]:
    group = view.number("model.microbatch_group_size_per_vp_stage") or pp
    group = max(group, pp)
    if pp > 1 and vp > 1 and 0 < number % group < pp:
        text = f"{number} micro-batches cannot be interleaved over PP {pp}: {number % group} are left over"
        hint = f"use a train.global_batch_size that gives a multiple of {pp} micro-batches"
        # The size of a group is certain only in a checked configuration.
        yield Finding(text, hint, impossible=view.complete)
        return
    idle = (pp - 1) / (number * vp + pp - 1)
    if pp > 1 and idle >= _BUBBLE:
        # Narayanan et al. 2021 (arXiv 2104.04473, section 2.2), as a share of the whole step.
        yield Finding(
            f"with {number} micro-batches in a step, the {pp} pipeline stages are idle {100 * idle:.0f} % of the time",
            "a larger train.global_batch_size, a smaller micro-batch or virtual stages reduce that",
        )


def _refused(misfit: Misfit | None) -> Iterator[Finding]:
    if misfit is not None:
        yield refused(misfit.text, misfit.hint)


RULES = (ranks, tensor, width, sequence_parallelism, pipeline, experts, mixed_layers, microbatches)
"""In the order of their findings."""
