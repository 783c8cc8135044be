"""How many parameters a rank holds, layer by layer.

The modules are those of megatron-core 0.19.2: in core/transformer attention.py, multi_latent_attention.py, mlp.py,
transformer_layer.py, multi_token_prediction.py, moe/{experts,router,shared_experts}.py;
core/models/gpt/gpt_model.py. What tensor parallelism does not split (norms, the router, the down-projections of
multi-latent attention) is whole on every rank.
"""

from dataclasses import dataclass, replace

from launcher.planning.memory.dimensions import Attention, Dimensions, Experts, Latent, Parallelism

_ONE = Parallelism(world_size=1, tp=1, pp=1, cp=1, ep=1, etp=1, vp=1, sequence=False)


@dataclass(frozen=True)
class Count:
    """Parameters of a rank: those of experts have data-parallel groups of their own."""

    dense: int = 0
    expert: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.dense + other.dense, self.expert + other.expert)

    def __mul__(self, times: int) -> "Count":
        return Count(self.dense * times, self.expert * times)

    @property
    def all(self) -> int:
        """Both kinds."""
        return self.dense + self.expert


def whole_model(sizes: Dimensions) -> int:
    """All parameters of the model, each counted once, whatever the parallel sizes."""
    single = replace(sizes, parallel=_ONE)
    layers = sum((layer(single, index) for index in range(sizes.layers)), Count())
    return (layers + embedding(single) + ending(single, own_output=not sizes.tied)).all


def layer(sizes: Dimensions, index: int) -> Count:
    """Layer `index` (from 0): attention, its norms, and a dense or a mixture's MLP."""
    shared = 2 * norm(sizes, sizes.hidden) + attention(sizes)
    if sizes.experts is not None and sizes.experts.layers[index]:
        return Count(shared) + mixture(sizes, sizes.experts)
    return Count(shared + mlp(sizes, sizes.ffn))


def embedding(sizes: Dimensions) -> Count:
    """The first stage's: rows are split by TP, learned positions are not."""
    return Count(sizes.vocabulary // sizes.parallel.tp * sizes.hidden + sizes.positions * sizes.hidden)


def ending(sizes: Dimensions, *, own_output: bool) -> Count:
    """The last stage's: final norm, output layer (unless the embedding on the same rank is it), extra predictions."""
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
    """One norm over `width` values."""
    return sizes.norm_vectors * width


def attention(sizes: Dimensions) -> int:
    """The projections of one layer on one rank; norms of queries and keys among them."""
    one, tp, hidden = sizes.attention, sizes.parallel.tp, sizes.hidden
    if one.latent is not None:
        return _latent(sizes, one, one.latent)
    queries, groups = own_heads(one, tp)
    wide = queries * (2 if one.output_gate else 1) + 2 * groups
    found = hidden * wide + queries * hidden
    found += wide if one.bias else 0
    found += hidden if sizes.linear_bias else 0
    return found + (2 * norm(sizes, one.channels) if one.qk_norm else 0)


def own_heads(one: Attention, tp: int) -> tuple[int, int]:
    """Widths of queries and of keys on one rank; fewer groups than ranks are held once on each (attention.py)."""
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
    """A dense MLP of `width` on one rank."""
    own, gates = width // sizes.parallel.tp, 2 if sizes.gated else 1
    bias = gates * own + sizes.hidden if sizes.linear_bias else 0
    return sizes.hidden * own * (gates + 1) + bias


def mixture(sizes: Dimensions, experts: Experts) -> Count:
    """Router, shared experts, and this rank's share of the experts."""
    gates = 2 if sizes.gated else 1
    own = experts.ffn // sizes.parallel.etp
    bias = gates * own + sizes.hidden if sizes.linear_bias else 0
    each = sizes.hidden * own * (gates + 1) + bias
    dense = sizes.hidden * experts.number
    if experts.shared:
        dense += mlp(sizes, experts.shared) + (sizes.hidden if experts.shared_gate else 0)
    return Count(dense, each * experts.number // sizes.parallel.ep)
