"""What two trainings are set to, by Bridge's keys, and where they differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.contract import values as hydra
from launcher.translation.table import ArgumentTable, load_table
from launcher.translation.translate import values_of


@dataclass(frozen=True)
class Difference:
    """A setting with two values. `numbers` says whether it can change the numbers of a training."""

    key: str
    left: Any
    right: Any
    numbers: bool

    @property
    def text(self) -> str:
        """Return the setting and both values."""
        return f"{self.key}: {hydra.show(self.left)} and {hydra.show(self.right)}"


def settings_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the plan of a run sets, by key: all of Megatron-LM's, and what is known of a recipe of Bridge's."""
    recipe = plan["argv"]["recipe"]
    if "mlm" in recipe:
        return values_of(recipe["words"])
    table = load_table()
    known = dict(table.recipe) if recipe.get("bridge") == table.base else {}
    return apply_overrides(known, [one["text"] for one in plan["argv"]["overrides"]])


def apply_overrides(known: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values with overrides in their places; a null precision takes its keys with it."""
    found = dict(known)
    for one in map(hydra.parse, overrides):
        found[one.key] = one.value
    return found


_SAME_ANYWAY = (
    *("model.bf16", "model.fp16", "model.params_dtype", "optimizer.bf16", "optimizer.fp16", "optimizer.weight_decay"),
    *("model.transformer_impl", "model.use_cpu_initialization", "train.exit_signal", "model.attention_backend"),
    *("mixed_precision.grad_reduce_in_fp32", "model.max_position_embeddings"),
)
"""Keys that follow others, or that nothing reads."""
_SHAPE = ("model.num_layers", "model.hidden_size", "model.num_attention_heads")
_BATCHES = ("train.train_iters", "train.global_batch_size", "train.micro_batch_size", "validation.eval_iters")
"""Keys that decide about the samples although their defaults are not compared."""


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the settings that both sides have and that differ, those that change numbers first."""
    table = load_table()
    left, right = _comparable(left), _comparable(right)
    found = [
        Difference(key, left[key], right[key], _changes_numbers(table, key))
        for key in sorted(left.keys() & right.keys())
        if key not in _SAME_ANYWAY and not _equal(left[key], right[key])
    ]
    return tuple(sorted(found, key=lambda one: not one.numbers))


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with what each side leaves to a default that the other one spells out."""
    # 0 stands for what a recipe leaves to its user.
    found = {key: value for key, value in values.items() if not (key in _SHAPE and value in (0, None))}
    hidden, iterations = found.get("model.hidden_size"), found.get("train.train_iters")
    if found.get("model.ffn_hidden_size") is None and hidden:
        found["model.ffn_hidden_size"] = 4 * hidden
    if found.get("scheduler.lr_decay_iters") is None and iterations:
        found["scheduler.lr_decay_iters"] = iterations
    found.setdefault("mixed_precision", None)
    found.setdefault("model.activation_func", "gelu")
    found.setdefault("model.gated_linear_unit", False)
    for key in ("model.num_query_groups", "model.kv_channels"):
        if found.get(key) is None:
            found.pop(key, None)
    return found


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return float(left) == float(right)
    if left in (None, [], "") and right in (None, [], ""):
        return True
    return json.dumps(left, default=str) == json.dumps(right, default=str)


def _changes_numbers(table: ArgumentTable, key: str) -> bool:
    if key in _BATCHES or key.startswith("tokenizer.vocab_size"):
        return True
    if key in ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer", "model.persist_layer_norm"):
        return False  # the rounding of the gradient norm at most; nothing with Transformer Engine
    return not table.is_kept(key) and key not in table.only_with


LAYOUT = (
    "model.tensor_model_parallel_size",
    "model.pipeline_model_parallel_size",
    "model.expert_model_parallel_size",
    "model.expert_tensor_parallel_size",
    "model.virtual_pipeline_model_parallel_size",
)
"""Sizes that decide which rank draws which weights: another one starts from other weights with the same seed."""


def layout_difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> str | None:
    """Return the parallel size in which two trainings differ so that the same seed gives other weights."""
    for key in LAYOUT:
        sizes = [values.get(key) or 1 for values in (left, right)]
        if key.endswith("expert_tensor_parallel_size"):
            sizes = [values.get(key) or values.get(LAYOUT[0]) or 1 for values in (left, right)]
            if not (left.get("model.num_moe_experts") or right.get("model.num_moe_experts")):
                continue
        if sizes[0] != sizes[1]:
            return f"{key}: {sizes[0]} and {sizes[1]}"
    return None
