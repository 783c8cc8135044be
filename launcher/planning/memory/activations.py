"""Activation memory: bytes that a layer saves for its backward pass, on one rank and for one micro-batch.

The formulas start from Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1 and table 2), adapted to what
megatron-core 0.19.2 with Transformer Engine saves: RMSNorm or LayerNorm save input and output; flash or cuDNN attention
saves queries, keys, values, output and one float for each row of scores instead of the scores (Dao et al. 2022, arXiv
2205.14135); a gated MLP saves both halves of its first product; dropout of probability 0 saves no mask. In FP8 and FP4
linear layers save their inputs in 8 or 4 bits; where another operation saves the same tensor, both are kept.
"""

from launcher.planning.memory.dimensions import Attention, Dimensions, Experts, Latent
from launcher.planning.memory.parameters import local_widths

_FLOAT = 4
_MASK = 1
"""Bytes of one value of a dropout mask."""


def layer(sizes: Dimensions, index: int) -> int:
    """Return the bytes that layer `index` saves without full recomputation; selective recomputation is included."""
    experts = sizes.experts
    mixed = experts is not None and experts.layers[index]
    kept = attention(sizes)
    # Selective recomputation of norms applies only to norms that are separate modules: the others are part of
    # Transformer Engine's linear layers (transformer_layer.py tests for an IdentityOp).
    dropped = sizes.recompute.of("layernorm")
    kept += norm(
        sizes, drop_output=dropped and sizes.attention.latent is not None, module="attn_norm", into="qkv_linear"
    )
    if mixed and experts is not None:
        # The router reads the norm's output as it is.
        kept += norm(sizes, drop_output=dropped, quantized=False, module="mlp_norm") + moe_mlp(sizes, experts)
    else:
        kept += norm(sizes, drop_output=False, module="mlp_norm")
        kept += 0 if sizes.recompute.of("mlp") else mlp(sizes, sizes.ffn)
    if sizes.dropout:
        kept += 2 * _MASK * sizes.hidden * sizes.tokens // sizes.parallel.sequence_shards
    return kept


def checkpoint(sizes: Dimensions) -> int:
    """Return the bytes of a fully recomputed layer's input, or of this rank's part (core/tensor_parallel/random.py)."""
    sequence_shards = sizes.parallel.tp if sizes.recompute.distributed else sizes.parallel.sequence_shards
    return sizes.width * sizes.hidden * sizes.tokens // sequence_shards


def norm(sizes: Dimensions, *, drop_output: bool, quantized: bool = True, module: str = "", into: str = "") -> int:
    """Return the bytes of input and output of a norm, which are in the sequence-parallel region.

    `quantized` is whether the output is the input of a linear layer alone, `into` that layer's name and `module` the
    norm's among those that can be offloaded.
    """
    values = sizes.hidden * sizes.tokens // sizes.parallel.sequence_shards
    output = sizes.saved if quantized else sizes.width
    kept = sizes.width * sizes.offload.of(module)
    return round(values * (kept + (0 if drop_output else output * sizes.offload.of(into))))


def attention(sizes: Dimensions) -> int:
    """Return the bytes of queries, keys, values, output (the input of the projection), and of the scores."""
    one, tp = sizes.attention, sizes.parallel.tp
    if one.latent is not None:
        return _latent(sizes, one, one.latent)
    queries, keys = local_widths(one, tp)
    core = sizes.offload.of("core_attn")
    values = (queries + 2 * keys) * core + queries * sizes.offload.of("attn_proj")
    if one.qk_norm:
        values += queries + keys
    if one.output_gate:
        values += 2 * queries
    return round((sizes.width * values + _projection(sizes, queries)) * sizes.tokens) + _scores(sizes)


def _projection(sizes: Dimensions, width: int) -> float:
    """Return the bytes of the projection's input in 8 or 4 bits, a copy of the attention's output, which stays too."""
    return sizes.saved * width if sizes.saved < sizes.width else 0


def _latent(sizes: Dimensions, one: Attention, latent: Latent) -> int:
    heads = one.heads // sizes.parallel.tp
    # The down-projections are complete on each rank; their norms save input and output.
    low = 2 * (latent.q_rank or 0) + 2 * latent.kv_rank + latent.rope_dim
    up = heads * (2 * (latent.qk_dim + latent.rope_dim) + latent.v_dim)
    if sizes.recompute.of("mla_up_proj"):
        up = 0
    values = low // sizes.parallel.sequence_shards + up + heads * latent.v_dim
    return round((sizes.width * values + _projection(sizes, heads * latent.v_dim)) * sizes.tokens) + _scores(sizes)


def _scores(sizes: Dimensions) -> int:
    """Return the bytes saved for the attention scores.

    Flash attention saves one float for each row. Otherwise the matrix is saved: 2 bytes for softmax, with dropout
    2 more and a mask.
    """
    if sizes.recompute.of("core_attn"):
        return 0
    heads = max(1, sizes.attention.heads // sizes.parallel.tp)
    if sizes.attention.fused:
        return _FLOAT * heads * sizes.tokens
    each = sizes.width + (sizes.width + _MASK if sizes.attention.dropout else 0)
    return each * heads * sizes.tokens * sizes.sequence


def mlp(sizes: Dimensions, width: int) -> int:
    """Return the bytes of an MLP: output of the first product (twice as wide if gated) and input of the second."""
    values = 2 if sizes.gated else 1
    if sizes.gated and not sizes.fused_activation:
        # The activation of the gate is then a separate tensor (core/transformer/mlp.py).
        values += 1
    return round((sizes.width * values + sizes.saved) * width * sizes.tokens) // sizes.parallel.tp


def moe_mlp(sizes: Dimensions, experts: Experts) -> int:
    """Return the bytes of a mixture-of-experts MLP: router, permuted tokens, experts, shared experts.

    The experts are assumed to be evenly loaded: `topk` rows for each token.
    """
    if sizes.recompute.of("moe"):
        return 0
    local = sizes.tokens // sizes.parallel.sequence_shards
    # Logits and probabilities in fp32, and the routing map in bytes (core/transformer/moe/router.py, moe_utils.py).
    kept = local * experts.number * (2 * _FLOAT + _MASK)
    own = experts.ffn // sizes.parallel.etp
    each = sizes.saved * sizes.hidden * sizes.offload.of("expert_fc1")
    each += sizes.width * own * (2 if sizes.gated else 1) * sizes.offload.of("moe_act")
    each += 0 if sizes.recompute.of("moe_act") else sizes.saved * own
    kept += round((each + _FLOAT) * routed_rows(sizes, experts))
    if experts.shared and not sizes.recompute.of("shared_experts"):
        kept += mlp(sizes, experts.shared)
    return kept


def routed_rows(sizes: Dimensions, experts: Experts) -> int:
    """Return the number of rows that the experts of one rank process, if the load is even."""
    return sizes.tokens // sizes.parallel.sequence_shards * experts.topk * sizes.parallel.etp


def backward(sizes: Dimensions, index: int) -> int:
    """Return the bytes of gradients at the peak of a layer's backward pass.

    They are those of the MLP's first product or of queries, keys and values, whichever are larger, together with the
    incoming gradient and that of the residual.
    """
    experts, gates = sizes.experts, 2 if sizes.gated else 1
    if experts is not None and experts.layers[index]:
        inner = (gates * experts.ffn // sizes.parallel.etp + sizes.hidden) * routed_rows(sizes, experts)
    else:
        inner = gates * sizes.ffn * sizes.tokens // sizes.parallel.tp
    queries, keys = local_widths(sizes.attention, sizes.parallel.tp)
    inner = max(inner, (2 * queries + 2 * keys) * sizes.tokens)
    return sizes.width * (inner + 2 * sizes.hidden * sizes.tokens // sizes.parallel.sequence_shards)


def output_stage(sizes: Dimensions) -> int:
    """Return the bytes that the last stage saves besides its layers: input and output of the final norm."""
    return norm(sizes, drop_output=False, quantized=False) * (1 + sizes.mtp)


def loss(sizes: Dimensions) -> int:
    """Return the bytes of the logits and of the loss at its peak.

    Transformer Engine's loss keeps a copy of the logits in their own precision (pytorch/triton/cross_entropy.py of
    2.19), the others keep one in fp32 (core/tensor_parallel/cross_entropy.py, core/fusions/fused_cross_entropy.py). In
    the backward pass the gradient of the weight exists beside one of the copies, unless the kernel accumulates it.
    """
    values = sizes.vocabulary // sizes.parallel.tp * sizes.tokens
    copy = sizes.width if sizes.fused_loss == "te" else _FLOAT
    weight = 0 if sizes.accumulation_fusion else sizes.width * sizes.vocabulary // sizes.parallel.tp * sizes.hidden
    each = max((sizes.width + copy) * values, copy * values + weight)
    return each + sizes.mtp * copy * values
