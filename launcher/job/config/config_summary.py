"""The part of a validated configuration that a plan's preflight and memory estimate read: plain JSON values by section.

One table lists the fields; a field that a release or a class of Bridge lacks is null. Computed here is only what needs
Megatron's own objects: the spread of layers over pipeline stages, the model's vocabulary, the names of classes.
"""

import dataclasses
import enum
import json
import math
from pathlib import PurePath
from typing import Any, Optional

from ..model import architectures

FIELDS = {
    "model": (
        *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
        *("gated_linear_unit", "share_embeddings_and_output_weights", "normalization", "qk_layernorm"),
        *("add_bias_linear", "add_qkv_bias", "attention_output_gate", "position_embedding_type", "hidden_dropout"),
        *("attention_dropout", "seq_length", "max_position_embeddings", "transformer_impl", "attention_backend"),
        *("num_moe_experts", "moe_ffn_hidden_size", "moe_router_topk", "moe_layer_freq", "moe_grouped_gemm"),
        *("moe_shared_expert_intermediate_size", "moe_shared_expert_gate", "moe_expert_capacity_factor"),
        *("moe_token_dispatcher_type", "moe_router_enable_expert_bias", "moe_latent_size"),
        *("multi_latent_attention", "q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"),
        *("mtp_num_layers", "experimental_attention_variant"),
        *("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules"),
        *("distribute_saved_activations", "cpu_offloading", "cpu_offloading_num_layers"),
        *("cpu_offloading_activations", "fine_grained_activation_offloading", "offload_modules"),
        *("activation_offload_fraction", "cuda_graph_impl", "cuda_graph_scope", "cuda_graph_modules"),
        *("bf16", "fp16", "fp8", "fp8_recipe", "fp8_param", "fp4", "fp4_recipe", "fp4_param", "params_dtype"),
        *("tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size"),
        *("context_parallel_size", "expert_model_parallel_size", "expert_tensor_parallel_size", "sequence_parallel"),
        *("microbatch_group_size_per_vp_stage", "num_layers_in_first_pipeline_stage", "cp_comm_type"),
        *("num_layers_in_last_pipeline_stage", "account_for_embedding_in_pipeline_split"),
        *("account_for_loss_in_pipeline_split", "cross_entropy_loss_fusion", "cross_entropy_fusion_impl"),
        *("gradient_accumulation_fusion", "bias_activation_fusion", "make_vocab_size_divisible_by"),
    ),
    "train": ("train_iters", "train_samples", "global_batch_size", "micro_batch_size", "rampup_batch_size"),
    "validation": ("eval_iters", "eval_interval", "eval_global_batch_size"),
    "scheduler": ("lr_warmup_iters", "lr_warmup_samples", "lr_warmup_fraction", "lr_decay_iters", "lr_decay_style"),
    "optimizer": (
        *("optimizer", "lr", "min_lr", "use_distributed_optimizer", "use_precision_aware_optimizer"),
        *("store_param_remainders", "main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype"),
        *("optimizer_cpu_offload", "optimizer_offload_fraction"),
        "use_precision_aware_optimizer_no_fp8_or_ds_fp8",
    ),
    "ddp": (
        *("use_distributed_optimizer", "grad_reduce_in_fp32", "overlap_grad_reduce", "overlap_param_gather"),
        *("use_megatron_fsdp", "data_parallel_sharding_strategy", "fp8_param_gather"),
        "num_distributed_optimizer_instances",
    ),
    "checkpoint": (
        *("save", "load", "pretrained_checkpoint", "save_interval", "finetune", "async_save", "ckpt_format"),
        *("load_optim", "save_optim", "most_recent_k", "fully_parallel_save", "dist_ckpt_optim_fully_reshardable"),
        "non_persistent_save_interval",
    ),
    "dataset": (
        *("blend", "blend_per_split", "data_path", "dataset_root", "dataset_name", "path_to_cache", "path"),
        *("seq_length", "split"),
    ),
    "tokenizer": ("tokenizer_type", "tokenizer_model", "vocab_size", "vocab_file", "merge_file"),
    "peft": ("dim", "target_modules"),
}
"""The fields that are read, by section of the configuration."""


def summarize(config: Any, transformer: Any) -> dict[str, Any]:
    """Return the values by section; `transformer` is the part of the model's configuration with its sizes."""
    found: dict[str, Any] = {}
    for section, names in FIELDS.items():
        owner = getattr(config, section, None)
        found[section] = None if owner is None else {name: _plain(_read(owner, transformer, name)) for name in names}
        if owner is not None and section in ("model", "dataset", "peft"):
            found[section]["classes"] = [cls.__name__ for cls in type(owner).__mro__ if cls is not object]
    model = found["model"]
    model["padded_vocab_size"] = _vocabulary(config, model)
    model["published_vocab_size"] = _published_vocabulary(config)
    model["pipeline_layout"] = _layout(transformer)
    model["layer_spec"] = _name(getattr(config.model, "transformer_layer_spec", None))
    return found


def plain_values(config: Any) -> dict[str, Any]:
    """Return every value of a configuration by key (`train.train_iters`), functions and other objects by name."""
    found: dict[str, Any] = {}
    for section, held in vars(config).items():
        if not dataclasses.is_dataclass(held):
            found[section] = _plain(held)
            continue
        for field in dataclasses.fields(held):
            value = getattr(held, field.name, None)
            found[f"{section}.{field.name}"] = _name(value) if callable(value) else _plain(value)
    return found


def _read(section: Any, transformer: Any, name: str) -> Any:
    """Return a field of `section`; for a model that keeps its sizes one level deeper, the field there."""
    own = getattr(section, name, None)
    deeper = getattr(section, "transformer", None)
    return getattr(transformer, name, None) if own is None and deeper is transformer else own


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: data types and enumerations by name, other objects by the name of their class."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    text = str(value)
    return text[len("torch.") :] if text.startswith("torch.") else type(value).__name__


def _vocabulary(config: Any, model: "dict[str, Any]") -> Optional[int]:
    """Return the embedding's rows over all tensor-parallel ranks, as Bridge's setup.py and gpt_provider.py do.

    A size in the model's configuration counts unchanged, unless it asks for padding; otherwise it is the tokenizer's,
    padded to a multiple of `make_vocab_size_divisible_by` x TP. None where only loading a tokenizer would show it.
    """
    tokenizer = getattr(config, "tokenizer", None)
    stated = getattr(config.model, "vocab_size", None)
    padded = bool(getattr(config.model, "should_pad_vocab", False))
    if stated is None or getattr(tokenizer, "use_tokenizer_vocab_size", False):
        stated, padded = getattr(tokenizer, "vocab_size", None), True
    if not isinstance(stated, int):
        return None
    multiple = (model["make_vocab_size_divisible_by"] or 1) * (model["tensor_model_parallel_size"] or 1)
    return math.ceil(stated / multiple) * multiple if padded else stated


def _published_vocabulary(config: Any) -> Optional[int]:
    """Return the embedding's rows in the published model: the recipe's own size, or that of a model that ships.

    The run's may be a little smaller where the tokenizer decides it: Qwen3's has 151,669 entries for 151,936 rows.
    """
    own = getattr(config.model, "vocab_size", None)
    if isinstance(own, int):
        return own
    name = str(getattr(getattr(config, "tokenizer", None), "tokenizer_model", None))
    file = next((each for each in architectures.files() if name in architectures.hub_names(each)), None)
    found = None if file is None else json.loads(file.read_text(encoding="utf-8")).get("vocab_size")
    return found if isinstance(found, int) else None


def _name(function: Any) -> Optional[str]:
    """Return the name of a function, also inside functools.partial."""
    name = getattr(getattr(function, "func", function), "__name__", None)
    return name if isinstance(name, str) else None


def _layout(transformer: Any) -> "Optional[list[list[list[str]]]]":
    """Return the names of the layers by pipeline rank and virtual stage, where the recipe sets a layout."""
    layout = getattr(getattr(transformer, "pipeline_model_parallel_layout", None), "layout", None)
    if not isinstance(layout, list):
        return None
    return [[[kind.name for kind in chunk] for chunk in rank] for rank in layout]
