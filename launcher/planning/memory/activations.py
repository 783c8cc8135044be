"""Bytes that a layer leaves for its backward pass, on one rank and for one micro-batch.

The count starts from Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1 and table 2) and is brought up to what
megatron-core 0.19.2 with Transformer Engine keeps: RMSNorm or LayerNorm keep input and output, flash or cuDNN attention
keeps queries, keys, values, output and one float for each row of scores instead of the scores (Dao et al. 2022, arXiv
2205.14135), a gated MLP keeps both halves of its first product, dropout of probability 0 keeps no mask.
"""

from launcher.planning.memory.dimensions import Attention, Dimensions, Experts, Latent
from launcher.planning.memory.parameters import own_heads

_FLOAT = 4
_MASK = 1
"""Bytes of a dropout mask's value."""


def layer(sizes: Dimensions, index: int) -> int:
    """What layer `index` keeps without full recomputation; selective recomputation is counted."""
    experts = sizes.experts
    mixed = experts is not None and experts.layers[index]
    kept = attention(sizes)
    # Selective recomputation of norms applies only where they are modules of their own: Transformer Engine's linear
    # layers hold the others (transformer_layer.py asks for an IdentityOp).
    dropped = sizes.recompute.of("layernorm")
    kept += norm(sizes, drop_output=dropped and sizes.attention.latent is not None)
    if mixed and experts is not None:
        kept += norm(sizes, drop_output=dropped) + mixture(sizes, experts)
    else:
        kept += norm(sizes, drop_output=False) + (0 if sizes.recompute.of("mlp") else mlp(sizes, sizes.ffn))
    if sizes.dropout:
        kept += 2 * _MASK * sizes.hidden * sizes.tokens // sizes.parallel.spread
    return kept


def checkpoint(sizes: Dimensions) -> int:
    """The input of a fully recomputed layer (core/tensor_parallel/random.py), or this rank's part of it."""
    spread = sizes.parallel.tp if sizes.recompute.distributed else sizes.parallel.spread
    return sizes.width * sizes.hidden * sizes.tokens // spread


def norm(sizes: Dimensions, *, drop_output: bool) -> int:
    """Input and output of a norm, which lie in the sequence-parallel region."""
    return (1 if drop_output else 2) * sizes.width * sizes.hidden * sizes.tokens // sizes.parallel.spread


def attention(sizes: Dimensions) -> int:
    """Queries, keys, values, output (the projection's input), and what the scores leave."""
    one, tp = sizes.attention, sizes.parallel.tp
    if one.latent is not None:
        return _latent(sizes, one, one.latent)
    queries, keys = own_heads(one, tp)
    values = 2 * queries + 2 * keys
    if one.qk_norm:
        values += queries + keys
    if one.output_gate:
        values += 2 * queries
    return sizes.width * values * sizes.tokens + _scores(sizes)


def _latent(sizes: Dimensions, one: Attention, latent: Latent) -> int:
    heads = one.heads // sizes.parallel.tp
    # The down-projections are whole on each rank; their norms keep input and output.
    low = 2 * (latent.q_rank or 0) + 2 * latent.kv_rank + latent.rope_dim
    up = heads * (2 * (latent.qk_dim + latent.rope_dim) + latent.v_dim)
    if sizes.recompute.of("mla_up_proj"):
        up = 0
    values = low // sizes.parallel.spread + up + heads * latent.v_dim
    return sizes.width * values * sizes.tokens + _scores(sizes)


def _scores(sizes: Dimensions) -> int:
    """One float for each row with flash attention; else the matrix: 2 bytes softmax, with dropout 2 more and a mask."""
    if sizes.recompute.of("core_attn"):
        return 0
    heads = max(1, sizes.attention.heads // sizes.parallel.tp)
    if sizes.attention.fused:
        return _FLOAT * heads * sizes.tokens
    each = sizes.width + (sizes.width + _MASK if sizes.attention.dropout else 0)
    return each * heads * sizes.tokens * sizes.sequence


def mlp(sizes: Dimensions, width: int) -> int:
    """Output of the first product (twice as wide when gated) and input of the second."""
    values = 3 if sizes.gated else 2
    if sizes.gated and not sizes.fused_activation:
        # The gate's activation is a tensor of its own then (core/transformer/mlp.py).
        values += 1
    return sizes.width * values * width * sizes.tokens // sizes.parallel.tp


def mixture(sizes: Dimensions, experts: Experts) -> int:
    """Router, permuted tokens, experts (evenly loaded: `topk` rows for each token), shared experts."""
    if sizes.recompute.of("moe"):
        return 0
    local = sizes.tokens // sizes.parallel.spread
    # Logits and probabilities as floats, and the map of bytes (core/transformer/moe/router.py, moe_utils.py).
    kept = local * experts.number * (2 * _FLOAT + _MASK)
    values = sizes.hidden
    own = experts.ffn // sizes.parallel.etp
    values += own * ((2 if sizes.gated else 1) + (0 if sizes.recompute.of("moe_act") else 1))
    kept += (sizes.width * values + _FLOAT) * routed(sizes, experts)
    if experts.shared and not sizes.recompute.of("shared_experts"):
        kept += mlp(sizes, experts.shared)
    return kept


def routed(sizes: Dimensions, experts: Experts) -> int:
    """Rows that a rank's experts work on: those of all ranks that share them, evenly spread."""
    return sizes.tokens // sizes.parallel.spread * experts.topk * sizes.parallel.etp


def backward(sizes: Dimensions, index: int) -> int:
    """Gradients that are alive at the fullest moment of a layer's backward pass: the first product of its MLP or the
    queries, keys and values, and the gradient that comes in with the residual's."""
    experts, gates = sizes.experts, 2 if sizes.gated else 1
    if experts is not None and experts.layers[index]:
        inner = (gates * experts.ffn // sizes.parallel.etp + sizes.hidden) * routed(sizes, experts)
    else:
        inner = gates * sizes.ffn * sizes.tokens // sizes.parallel.tp
    queries, keys = own_heads(sizes.attention, sizes.parallel.tp)
    inner = max(inner, (2 * queries + 2 * keys) * sizes.tokens)
    return sizes.width * (inner + 2 * sizes.hidden * sizes.tokens // sizes.parallel.spread)


def ending(sizes: Dimensions) -> int:
    """What the last stage keeps besides its layers: input and output of the final norm."""
    return norm(sizes, drop_output=False) * (1 + sizes.mtp)


def loss(sizes: Dimensions) -> int:
    """Logits and what the loss makes of them, at its fullest moment.

    Transformer Engine's loss keeps a copy of the logits in their own precision (pytorch/triton/cross_entropy.py of
    2.19), the others one in fp32 (core/tensor_parallel/cross_entropy.py, core/fusions/fused_cross_entropy.py). In the
    backward pass the weight's gradient comes beside one of the copies, unless it is accumulated in the kernel.
    """
    values = sizes.vocabulary // sizes.parallel.tp * sizes.tokens
    copy = sizes.width if sizes.fused_loss == "te" else _FLOAT
    weight = 0 if sizes.accumulation_fusion else sizes.width * sizes.vocabulary // sizes.parallel.tp * sizes.hidden
    each = max((sizes.width + copy) * values, copy * values + weight)
    return each + sizes.mtp * copy * values
