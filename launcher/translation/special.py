"""The arguments of Megatron-LM that a table alone cannot translate: several of them make one value of Bridge's.

Each function takes the values of all arguments and the name of the one to translate, and returns the keys with their
values, or a sentence why none is needed, or a reason of the table's closed list with what is behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Computed:
    """What an argument becomes: keys, or a reason why it has none."""

    keys: tuple[tuple[str, Any], ...] = ()
    always: str | None = None
    none: str | None = None
    why: str | None = None


ACTIVATIONS: Mapping[str, tuple[str, bool]] = {
    "swiglu": ("silu", True),
    "quick_geglu": ("quick_gelu", True),
    "squared_relu": ("squared_relu", False),
}
"""model.activation_func and model.gated_linear_unit of Megatron-LM's flags."""


def precision(_values: Values, name: str) -> Computed:
    """Return the mixed precision that --bf16 or --fp16 names."""
    return Computed((("mixed_precision", f"{name}_mixed"),))


def activation(_values: Values, name: str) -> Computed:
    """Return the activation function of a flag."""
    function, gated = ACTIVATIONS[name]
    gate = (("model.gated_linear_unit", True),) if gated else ()
    return Computed((("model.activation_func", function), *gate))


def query_groups(values: Values, name: str) -> Computed:
    """Return the number of query groups, which counts only with --group-query-attention."""
    if not values["group_query_attention"]:
        return Computed(none="no effect", why="it counts only with --group-query-attention")
    if name == "group_query_attention":
        return Computed(always="Bridge groups queries where model.num_query_groups is set")
    return Computed((("model.num_query_groups", values["num_query_groups"]),))


def positions(values: Values, _name: str) -> Computed:
    """Return what becomes of the number of positions: Bridge has model.seq_length of them."""
    length = values["seq_length"] or values["encoder_seq_length"]
    if values["max_position_embeddings"] == length:
        return Computed(always="Bridge has model.seq_length positions")
    kind = "rope" if values["use_rotary_position_embeddings"] else values["position_embedding_type"]
    if kind != "learned_absolute":
        return Computed(always=f"with positions of the type {kind} there is no table whose size it could be")
    return Computed(none="one length", why=f"Bridge's table of positions has model.seq_length={length} rows")


def virtual_stages(values: Values, _name: str) -> Computed:
    """Return the number of virtual stages that so many layers in each make."""
    layers = values["num_layers"] or values["encoder_num_layers"]
    per_rank = layers // values["pipeline_model_parallel_size"] if layers else 0
    stages = per_rank // values["num_layers_per_virtual_pipeline_stage"]
    if stages <= 1:
        return Computed(none="no effect", why="it makes one stage of each rank")
    return Computed((("model.virtual_pipeline_model_parallel_size", stages),))


def split_paths(values: Values, name: str) -> Computed:
    """Return the blends of training, validation and test in one value, at the first of the arguments that is given."""
    names = ("train_data_path", "valid_data_path", "test_data_path")
    if name != next(one for one in names if values[one]):
        return Computed(always="it is in dataset.blend_per_split")
    blends = [_blend(values[one]) if values[one] else None for one in names]
    return Computed((("dataset.blend_per_split", blends),))


def _blend(words: list[str]) -> list[Any]:
    """Return paths and weights, as megatron.core.datasets.utils.get_blend_from_list reads them."""
    if len(words) % 2:
        return [words, None]
    return [words[1::2], [float(one) for one in words[::2]]]


FUNCTIONS: Mapping[str, Callable[[Values, str], Computed]] = {
    "precision": precision,
    "activation": activation,
    "query_groups": query_groups,
    "positions": positions,
    "virtual_stages": virtual_stages,
    "split_paths": split_paths,
}


def effective(values: Values) -> dict[str, Any]:
    """Return the values after what Megatron-LM's validate_args makes of those that were not given."""
    found = dict(values)
    if found["use_rotary_position_embeddings"]:
        found["position_embedding_type"] = "rope"
    if not found["add_bias_linear"]:
        found["bias_gelu_fusion"] = False
    if found["position_embedding_type"] != "rope":
        found["apply_rope_fusion"] = False
    if found["ffn_hidden_size"] is None and found["swiglu"] and found["hidden_size"]:
        found["ffn_hidden_size"] = int((4 * found["hidden_size"] * 2 / 3) / 64) * 64
    if found["data_path"] and found["split"] is None:
        found["split"] = "969, 30, 1"
    return found
