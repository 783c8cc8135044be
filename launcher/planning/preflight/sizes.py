"""Do model, batch and sequence divide by the parallel sizes?

The rules that the job checks as well are in contract/parallel_sizes.py; those here are megatron-core 0.19.2's too
(core/model_parallel_config.py, core/tensor_parallel/layers.py, core/pipeline_parallel/schedules.py).
"""

from collections.abc import Iterator

from launcher.contract import parallel_sizes
from launcher.contract.parallel_sizes import Misfit, divisors
from launcher.planning.memory.dimensions import has_uniform_layers
from launcher.planning.preflight.findings import ConfigView, Finding, refused

_UNEVEN = ("model.pipeline_layout", *(f"model.{name}" for name in parallel_sizes.UNEVEN_LAYERS))
_TP = "tensor_model_parallel_size"
_PP = "pipeline_model_parallel_size"
_CP = "context_parallel_size"
_VP = "virtual_pipeline_model_parallel_size"
_EP = "expert_model_parallel_size"
_ETP = "expert_tensor_parallel_size"
_MANY_MICROBATCHES = 256
_BUBBLE = 0.3
"""The share of a step that stages wait, from which it is worth a word."""


def tensor(view: ConfigView) -> Iterator[Finding]:
    """Heads, key-value heads, widths and vocabulary by TP."""
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
            f"{tp // groups} times over",
            f"TP {groups} and more data parallelism is cheaper where it fits in memory",
        )


def width(view: ConfigView) -> Iterator[Finding]:
    """Hidden size by heads, where heads have no width of their own; the choice of experts."""
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
    """SP needs TP, and a sequence that it can split; experts with TP need SP."""
    tp, parallel = view.size(_TP), view.flag("model.sequence_parallel")
    if tp == 1 and parallel:
        # Some of Bridge's recipes say so, and its models take it back (models/transformer_config.py): no refusal.
        yield Finding(
            f"model.sequence_parallel=true needs tensor parallelism, and model.{_TP} is 1",
            f"set model.sequence_parallel=false, or model.{_TP}=2",
        )
    if tp is not None and tp > 1 and parallel is False and view.number("model.num_moe_experts"):
        yield refused(
            f"a mixture of experts with model.{_TP}={tp} needs model.sequence_parallel=true (moe_layer.py asks for it)"
        )
    length, cp = view.number("model.seq_length"), view.size(_CP)
    if length is None:
        return
    if cp is not None and (misfit := parallel_sizes.sequence_by_context(length, cp)):
        yield from _refused(misfit)
    elif tp is not None and tp > 1 and parallel and cp is not None and length // cp % tp:
        yield refused(
            f"model.seq_length={length} / model.{_CP}={cp} cannot be divided by model.{_TP}={tp}, as sequence "
            "parallelism asks",
            f"use {(length // (cp * tp) + 1) * cp * tp}",
        )


def pipeline(view: ConfigView) -> Iterator[Finding]:
    """Layers by stages and virtual stages; VP needs PP."""
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
    """Experts by EP, their width by ETP, and EP without experts."""
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
    """A pattern of dense layers and mixtures that nothing reads."""
    pattern, spec = view.values.get("model.moe_layer_freq", 1), view.values.get("model.layer_spec")
    some_dense = 0 in pattern if isinstance(pattern, list) else pattern != 1
    if view.number("model.num_moe_experts") and some_dense and has_uniform_layers({"layer_spec": spec}):
        yield Finding(
            f"model.moe_layer_freq={pattern} has no effect: {spec} makes every layer a mixture",
            "let the recipe set model.transformer_layer_spec to megatron-core's get_gpt_decoder_block_spec",
        )


def ranks(view: ConfigView) -> Iterator[Finding]:
    """The world by TP x PP x CP, and by ETP x EP x PP."""
    tp, pp, cp, ep = (view.size(name) for name in (_TP, _PP, _CP, _EP))
    if tp and pp and cp:
        yield from _refused(parallel_sizes.ranks_by_model(view.world_size, tp, pp, cp))
    etp = view.number(f"model.{_ETP}")
    if etp and ep and pp and ep > 1:
        yield from _refused(parallel_sizes.ranks_by_experts(view.world_size, etp, ep, pp))


def microbatches(view: ConfigView) -> Iterator[Finding]:
    """The global batch by micro-batch size x DP; what that means for the pipeline and for more nodes."""
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
    if number >= _MANY_MICROBATCHES:
        yield Finding(
            f"each rank works on {number} micro-batches of a step: a global batch of {batch} is large for "
            f"{data} data-parallel ranks",
            f"{batch // data} samples a rank stay the same (weak scaling) with train.global_batch_size={2 * batch} on "
            f"twice the nodes, and a batch of {batch} there takes half the time (strong scaling)",
        )


def _schedule(view: ConfigView, number: int, pp: int, vp: int) -> Iterator[Finding]:
    group = view.number("model.microbatch_group_size_per_vp_stage") or pp
    group = max(group, pp)
    if pp > 1 and vp > 1 and 0 < number % group < pp:
        text = f"{number} micro-batches of a step cannot be interleaved over PP {pp}: {number % group} are left over"
        hint = f"use a train.global_batch_size that gives a multiple of {pp} micro-batches"
        # Without a check the size of a group is not known for sure.
        yield Finding(text, hint, impossible=view.complete)
        return
    idle = (pp - 1) / (number * vp + pp - 1)
    if pp > 1 and idle >= _BUBBLE:
        # Narayanan et al. 2021 (arXiv 2104.04473, section 2.2), as a share of the whole step.
        yield Finding(
            f"with {number} micro-batches of a step the {pp} pipeline stages wait {100 * idle:.0f} % of the time",
            "a larger train.global_batch_size, a smaller micro-batch or virtual stages shorten that",
        )


def _refused(misfit: Misfit | None) -> Iterator[Finding]:
    if misfit is not None:
        yield refused(misfit.text, misfit.hint)


RULES = (ranks, tensor, width, sequence_parallelism, pipeline, experts, mixed_layers, microbatches)
"""In the order in which they are told."""
