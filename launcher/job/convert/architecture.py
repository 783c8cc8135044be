"""The Hugging Face architecture of a checkpoint, and whether the two agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..errors import UserError, first_line
from ..model import hub
from .model import supported

AGREE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "vocab_size",
    "normalization",
    "layernorm_epsilon",
    "layernorm_zero_centered_gamma",
    "qk_layernorm",
    "add_bias_linear",
    "add_qkv_bias",
    "gated_linear_unit",
    "share_embeddings_and_output_weights",
    "position_embedding_type",
    "rotary_base",
    "rotary_percent",
    "num_moe_experts",
    "moe_ffn_hidden_size",
    "moe_router_topk",
    "moe_router_score_function",
    "moe_shared_expert_intermediate_size",
    "multi_latent_attention",
)
"""Fields of a GPT model that decide what it computes, and that Hugging Face's config.json must state as well."""


@dataclass
class Architecture:
    """What an export writes: Bridge's mapping, the config.json, the dtype of the checkpoint."""

    bridge: Any
    config: Any
    dtype: Any
    directory: Optional[Path]
    """Directory that may have tokenizer files; None where only the architecture is known."""
    tensors: int
    """Approximate number of tensors in the checkpoint, for progress only."""
    peft: "Optional[dict[str, Any]]" = None
    """Bridge's settings of the adapters that the checkpoint holds alone; None where it holds a whole model."""


def of_checkpoint(iteration: Path, wanted: Optional[str]) -> Architecture:
    """Return the architecture `wanted` (a directory or a hub name), else the one recorded in the checkpoint.

    A model that was trained with other sizes than its architecture's gets its own config.json. Raises UserError.
    """
    from megatron.bridge import AutoBridge
    from transformers import AutoConfig

    saved = _saved(iteration)
    name = wanted or saved["model"].get("hf_model_id")
    if not name:
        raise UserError(
            "this checkpoint does not name its Hugging Face model",
            where=str(iteration),
            hint="name a directory with the model's config.json: --architecture HF_DIR",
        )
    with hub.provide_config(str(name)), supported(str(name)):
        config = _config(AutoConfig, str(name))
        bridge = AutoBridge.from_hf_config(config)
        differences = _differences(bridge, saved["model"])
        if differences:
            bridge = AutoBridge.from_auto_config(str(iteration), str(name))
            differences = _differences(bridge, saved["model"])
    if differences:
        raise UserError(
            f"the checkpoint's model differs from {name}: {'; '.join(differences)}",
            where=str(iteration),
            hint="name the right model with --architecture HF_DIR",
        )
    dtype, directory = _dtype(saved["model"]), _directory(str(name))
    return Architecture(bridge, bridge.hf_pretrained, dtype, directory, _tensors(saved), saved["peft"])


def _saved(iteration: Path) -> "dict[str, Any]":
    import yaml  # type: ignore[import-untyped]

    path = iteration / "run_config.yaml"
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = saved["model"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"run_config.yaml cannot be read: {type(error).__name__}",
            where=str(path),
            hint="use a checkpoint that Megatron Bridge wrote, which has this file",
        ) from error
    return {"model": {**model, **(model.get("transformer") or {})}, "peft": saved.get("peft") or None}


def _config(loader: Any, name: str) -> Any:
    try:
        return loader.from_pretrained(name)
    except (OSError, ValueError) as error:
        words = first_line(error)
        raise UserError(
            f"the architecture {name} cannot be read: {words}", hint="name a directory: --architecture HF_DIR"
        ) from error


def _differences(bridge: Any, saved: "dict[str, Any]") -> "list[str]":
    """Return a phrase for each field in which the checkpoint's model and the architecture differ."""
    provider = bridge.to_megatron_provider(load_weights=False)
    found = []
    for field in AGREE:
        if field not in saved or not hasattr(provider, field):
            continue
        mine, theirs = saved[field], getattr(provider, field)
        if field == "kv_channels" and None in (mine, theirs):
            continue  # the width of a head follows from other fields
        if field == "num_query_groups":
            mine, theirs = (one or saved.get("num_attention_heads") for one in (mine, theirs))
        if mine != theirs and not _close(mine, theirs):
            found.append(f"{field} is {mine} in the checkpoint and {theirs} in the architecture")
    return found


def _close(one: Any, other: Any) -> bool:
    return isinstance(one, float) and isinstance(other, (int, float)) and abs(one - other) <= 1e-6 * abs(one)


def _dtype(saved: "dict[str, Any]") -> Any:
    import torch

    return torch.bfloat16 if saved.get("bf16") else torch.float16 if saved.get("fp16") else torch.float32


def _directory(name: str) -> Optional[Path]:
    if Path(name).is_dir():
        return Path(name)
    return hub.snapshot(name)


def _tensors(saved: "dict[str, Any]") -> int:
    layers, experts = int(saved["model"].get("num_layers") or 0), int(saved["model"].get("num_moe_experts") or 0)
    return layers * (9 + 3 * experts) + 3
