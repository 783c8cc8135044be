"""Number of parameters on a rank, layer by layer.

Source: megatron-core 0.19.2, in core/transformer attention.py, multi_latent_attention.py, mlp.py, transformer_layer.py,
multi_token_prediction.py, moe/{experts,router,shared_experts}.py, and core/models/gpt/gpt_model.py. Parameters that
tensor parallelism does not split (norms, the router, the down-projections of multi-latent attention) are complete on
every rank.
"""

from dataclasses import dataclass, replace

from launcher.planning.memory.dimensions import Attention, Dimensions, Experts, Latent, Parallelism

_ONE = Parallelism(world_size=1, tp=1, pp=1, cp=1, ep=1, etp=1, vp=1, sequence=False)


@dataclass(frozen=True)
class Count:
    """Number of parameters on a rank. Those of experts are separate: their data-parallel groups differ."""

    dense: int = 0
    expert: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.dense + other.dense, self.expert + other.expert)

    def __mul__(self, times: int) -> "Count":
        return Count(self.dense * times, self.expert * times)

    @property
    def all(self) -> int:
        """Return the sum of both kinds."""
        return self.dense + self.expert


def whole_model(sizes: Dimensions) -> int:
    """Count all parameters of the model once, independent of the parallel sizes."""
    single = replace(sizes, parallel=_ONE)
    layers = sum((layer(single, index) for index in range(sizes.layers)), Count())
    return (layers + embedding(single) + output_stage(single, own_output=not sizes.tied)).all


def layer(sizes: Dimensions, index: int) -> Count:
    """Count the parameters of layer `index` (from 0): attention, norms, and a dense or mixture-of-experts MLP."""
    shared = 2 * norm(sizes, sizes.hidden) + attention(sizes)
    if sizes.experts is not None and sizes.experts.layers[index]:
        return Count(shared) + moe_mlp(sizes, sizes.experts)
    return Count(shared + mlp(sizes, sizes.ffn))


def embedding(sizes: Dimensions) -> Count:
    """Count the embedding on the first stage: TP splits its rows, but not learned positions."""
    return Count(sizes.vocabulary // sizes.parallel.tp * sizes.hidden + sizes.positions * sizes.hidden)


def output_stage(sizes: Dimensions, *, own_output: bool) -> Count:
    """Count what the last stage holds besides layers: final norm, output layer, multi-token prediction.

    `own_output` is False if the embedding on the same rank serves as the output layer.
    """
    output = sizes.vocabulary // sizes.parallel.tp * sizes.hidden
    found = Count(norm(sizes, sizes.hidden) + (output if own_output else 0))
    if sizes.mtp:
        # Each depth: three norms, the projection of [hidden, embedding], and a layer like the model's last.
        own = 3 * norm(sizes, sizes.hidden) + 2 * sizes.hidden * sizes.hidden // sizes.parallel.tp
        found += (Count(own) + layer(sizes, sizes.layers - 1)) * sizes.mtp
        if sizes.parallel.pp > 1 and not sizes.tied:
            found += Count(output)
    return found


def norm(sizes: Dimensions, width: int) -> int:
    """Count the parameters of one norm over `width` values."""
    return sizes.norm_vectors * width


def attention(sizes: Dimensions) -> int:
    """Count the projections of one layer's attention on one rank, with the norms of queries and keys."""
    one, tp, hidden = sizes.attention, sizes.parallel.tp, sizes.hidden
    if one.latent is not None:
        return _latent(sizes, one, one.latent)
    queries, groups = local_widths(one, tp)
    wide = queries * (2 if one.output_gate else 1) + 2 * groups
    found = hidden * wide + queries * hidden
    found += wide if one.bias else 0
    found += hidden if sizes.linear_bias else 0
    return found + (2 * norm(sizes, one.channels) if one.qk_norm else 0)


def local_widths(one: Attention, tp: int) -> tuple[int, int]:
    """Return the widths of queries and keys on one rank; each rank holds at least one key-value head (attention.py)."""
    return one.heads * one.channels // tp, max(1, one.groups // tp) * one.channels


def _latent(sizes: Dimensions, one: Attention, latent: Latent) -> int:
    hidden, heads = sizes.hidden, one.heads // sizes.parallel.tp
    queries = heads * (latent.qk_dim + latent.rope_dim)
    found = hidden * (latent.kv_rank + latent.rope_dim)
    found += latent.kv_rank * heads * (latent.qk_dim + latent.v_dim) + heads * latent.v_dim * hidden
    found += norm(sizes, latent.kv_rank) if one.qk_norm else 0
    if latent.q_rank is None:
        return found + hidden * queries
    return found + hidden * latent.q_rank + latent.q_rank * queries + (norm(sizes, latent.q_rank) if one.qk_norm else 0)


def mlp(sizes: Dimensions, width: int) -> int:
    """Count the parameters of a dense MLP of `width` on one rank."""
    own, gates = width // sizes.parallel.tp, 2 if sizes.gated else 1
    bias = gates * own + sizes.hidden if sizes.linear_bias else 0
    return sizes.hidden * own * (gates + 1) + bias


def moe_mlp(sizes: Dimensions, experts: Experts) -> Count:
    """Count router, shared experts, and the experts of this rank."""
    gates = 2 if sizes.gated else 1
    own = experts.ffn // sizes.parallel.etp
    bias = gates * own + sizes.hidden if sizes.linear_bias else 0
    each = sizes.hidden * own * (gates + 1) + bias
    dense = sizes.hidden * experts.number
    if experts.shared:
        dense += mlp(sizes, experts.shared) + (sizes.hidden if experts.shared_gate else 0)
    return Count(dense, each * experts.number // sizes.parallel.ep)
