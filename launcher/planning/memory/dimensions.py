"""Dimensions of a model and its layout, read once from a checked configuration for the memory estimate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SPECS_OF_ONE_LAYER = (
    *("default_layer_spec", "transformer_engine_layer_spec", "transformer_engine_full_layer_spec", "local_layer_spec"),
    "modelopt_transformer_layer_spec",
)
"""Functions of Bridge's models/gpt_provider.py that return the same spec for every layer."""


class NotEstimatedError(Exception):
    """The formulas do not cover this kind of configuration; the message names it."""


@dataclass(frozen=True)
class Attention:
    """Widths of the attention, in values per token."""

    heads: int
    groups: int
    """Number of key-value heads; equal to `heads` without grouped-query attention."""
    channels: int
    """Width of one head."""
    qk_norm: bool
    bias: bool
    output_gate: bool
    fused: bool
    """Whether the scores are never written to memory (flash or cuDNN attention)."""
    dropout: bool
    latent: "Latent | None"


@dataclass(frozen=True)
class Latent:
    """Multi-latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): low-rank queries, keys and values."""

    q_rank: int | None
    kv_rank: int
    qk_dim: int
    rope_dim: int
    v_dim: int


@dataclass(frozen=True)
class Experts:
    """Mixture of experts: `number` experts of width `ffn`, `topk` per token, shared experts of width `shared`."""

    number: int
    ffn: int
    topk: int
    shared: int
    shared_gate: bool
    layers: tuple[bool, ...]
    """For each layer, whether its MLP is a mixture of experts."""


@dataclass(frozen=True)
class Recompute:
    """Which activations are recomputed in the backward pass."""

    granularity: str | None
    method: str | None
    layers: int
    modules: frozenset[str]
    distributed: bool
    """Whether saved inputs are distributed over tensor-parallel ranks."""

    def of(self, module: str) -> bool:
        """Return whether selective recomputation drops the activations of `module`."""
        return self.granularity == "selective" and module in self.modules


@dataclass(frozen=True)
class Offload:
    """Which activations wait for the backward pass in the host's memory."""

    layers: int
    """Number of layers, the first of the model, whose activations all do (cpu_offloading)."""
    modules: frozenset[str]
    """Modules whose inputs do (fine_grained_activation_offloading)."""
    fraction: float
    """The share of these modules' micro-batches."""

    def of(self, module: str) -> float:
        """Return the share of the input of `module` that stays on the GPU."""
        return 1.0 - self.fraction if module in self.modules else 1.0


@dataclass(frozen=True)
class Parallelism:
    """Parallel sizes, and how the sequence is split."""

    world_size: int
    tp: int
    pp: int
    cp: int
    ep: int
    etp: int
    vp: int
    sequence: bool
    """Whether sequence parallelism splits what TP does not split (Korthikanti et al. 2022)."""

    @property
    def dp(self) -> int:
        """Return the number of ranks that hold the same part of the model, without context parallelism."""
        return self.world_size // (self.tp * self.pp * self.cp)

    @property
    def expert_dp(self) -> int:
        """Return the number of ranks that hold the same experts."""
        return max(1, self.world_size // (self.etp * self.ep * self.pp))

    @property
    def sequence_shards(self) -> int:
        """Return into how many parts sequence parallelism splits the sequence."""
        return self.tp if self.sequence else 1


@dataclass(frozen=True)
class Dimensions:
    """Dimensions of a model and its batch; `width` is the size of one activation value in bytes.

    `saved` is that of a linear layer's input, as it waits for the backward pass: 1 byte in FP8, about half in FP4.
    """

    layers: int
    hidden: int
    ffn: int
    gated: bool
    vocabulary: int
    tied: bool
    norm_vectors: int
    """Parameter vectors of a norm: 1 for RMSNorm, 2 for LayerNorm."""
    linear_bias: bool
    fused_activation: bool
    positions: int
    """Rows of a learned position embedding; 0 with rotary positions."""
    dropout: bool
    attention: Attention
    experts: Experts | None
    mtp: int
    recompute: Recompute
    parallel: Parallelism
    sequence: int
    micro_batch: int
    microbatches: int
    width: int
    saved: float
    offload: Offload
    fused_loss: str | None
    accumulation_fusion: bool

    @property
    def tokens(self) -> int:
        """Return the number of tokens of a micro-batch on one context-parallel rank."""
        return self.sequence * self.micro_batch // self.parallel.cp


def read_dimensions(resolved: Mapping[str, Any], world_size: int) -> Dimensions:
    """Read the dimensions of a checked configuration. Raises NotEstimatedError with the reason."""
    config = resolved.get("config")
    if not isinstance(config, Mapping) or "model" not in config:
        raise NotEstimatedError("the check did not report the model's sizes")
    model = config["model"]
    _require_known_kind(model)
    parallel = _parallel(model, world_size)
    micro, batch = resolved.get("micro_batch_size") or 1, resolved.get("global_batch_size") or 1
    recompute = Recompute(
        granularity=model["recompute_granularity"],
        method=model["recompute_method"],
        layers=model["recompute_num_layers"] or 1,
        modules=frozenset(model["recompute_modules"] or ()),
        distributed=bool(model["distribute_saved_activations"]),
    )
    return Dimensions(
        layers=model["num_layers"],
        hidden=model["hidden_size"],
        ffn=model["ffn_hidden_size"] or 4 * model["hidden_size"],
        gated=bool(model["gated_linear_unit"]),
        vocabulary=model["padded_vocab_size"] or model["published_vocab_size"],
        tied=bool(model["share_embeddings_and_output_weights"]),
        norm_vectors=1 if model["normalization"] == "RMSNorm" else 2,
        linear_bias=bool(model["add_bias_linear"]),
        fused_activation=model["bias_activation_fusion"] is not False,
        positions=model["seq_length"] if model["position_embedding_type"] == "learned_absolute" else 0,
        dropout=bool(model["hidden_dropout"]),
        attention=_attention(model),
        experts=_experts(model),
        mtp=model["mtp_num_layers"] or 0,
        recompute=recompute,
        parallel=parallel,
        sequence=model["seq_length"],
        micro_batch=micro,
        microbatches=max(1, batch // (micro * parallel.dp)),
        width=2 if model["bf16"] or model["fp16"] else 4,
        saved=_saved(model),
        offload=_offload(model),
        fused_loss=model["cross_entropy_fusion_impl"] if model["cross_entropy_loss_fusion"] else None,
        accumulation_fusion=bool(model["gradient_accumulation_fusion"]),
    )


def _saved(model: Mapping[str, Any]) -> float:
    """Return the bytes of one value of a linear layer's input, as it is saved.

    Transformer Engine keeps the copy that the gradient of the weight needs, with one scale for 32 (MXFP8) or 16 (NVFP4)
    values (Transformer Engine 2.19, pytorch/tensor/{mxfp8,nvfp4}_tensor.py).
    """
    if model.get("fp4"):
        return 0.5 + 1 / 16
    if model["fp8"]:
        return 1 + (1 / 32 if model.get("fp8_recipe") == "mxfp8" else 0)
    return 2 if model["bf16"] or model["fp16"] else 4


def _offload(model: Mapping[str, Any]) -> Offload:
    fine = bool(model["fine_grained_activation_offloading"])
    whole = model["cpu_offloading"] and model.get("cpu_offloading_activations") is not False
    fraction = model.get("activation_offload_fraction")
    return Offload(
        layers=(model["cpu_offloading_num_layers"] or 0) if whole else 0,
        modules=frozenset(model.get("offload_modules") or ()) if fine else frozenset(),
        fraction=1.0 if fraction is None else float(fraction),
    )


def _require_known_kind(model: Mapping[str, Any]) -> None:
    classes = model["classes"]
    if not {"GPTModelProvider", "GPTModelConfig"} & set(classes):
        raise NotEstimatedError(f"{classes[0]} is not a GPT of megatron-core, and there are no formulas for its layers")
    unknown = {
        "experimental_attention_variant": "there is no formula for this attention",
        "moe_latent_size": "there is no formula for latent experts",
    }
    for name, reason in unknown.items():
        if model.get(name) is not None:
            raise NotEstimatedError(f"model.{name}={model[name]}: {reason}")
    if model["padded_vocab_size"] is None and model.get("published_vocab_size") is None:
        raise NotEstimatedError("the size of the vocabulary is known only when the tokenizer is loaded")
    missing = [name for name in ("num_layers", "hidden_size", "num_attention_heads", "seq_length") if not model[name]]
    if missing:
        raise NotEstimatedError(f"model.{missing[0]} is not set")


def _parallel(model: Mapping[str, Any], world_size: int) -> Parallelism:
    tp = model["tensor_model_parallel_size"] or 1
    return Parallelism(
        world_size=world_size,
        tp=tp,
        pp=model["pipeline_model_parallel_size"] or 1,
        cp=model["context_parallel_size"] or 1,
        ep=model["expert_model_parallel_size"] or 1,
        etp=model["expert_tensor_parallel_size"] or tp,
        vp=model["virtual_pipeline_model_parallel_size"] or 1,
        sequence=bool(model["sequence_parallel"]) and tp > 1,
    )


def _attention(model: Mapping[str, Any]) -> Attention:
    heads = model["num_attention_heads"]
    latent = None
    if model["multi_latent_attention"]:
        latent = Latent(
            q_rank=model["q_lora_rank"],
            kv_rank=model["kv_lora_rank"],
            qk_dim=model["qk_head_dim"],
            rope_dim=model["qk_pos_emb_head_dim"],
            v_dim=model["v_head_dim"],
        )
    return Attention(
        heads=heads,
        groups=model["num_query_groups"] or heads,
        channels=model["kv_channels"] or model["hidden_size"] // heads,
        qk_norm=bool(model["qk_layernorm"]),
        bias=bool(model["add_bias_linear"] or model["add_qkv_bias"]),
        output_gate=bool(model["attention_output_gate"]),
        fused=model["transformer_impl"] != "local" and model["attention_backend"] not in ("unfused", "local"),
        dropout=bool(model["attention_dropout"]),
        latent=latent,
    )


def has_uniform_layers(model: Mapping[str, Any]) -> bool:
    """Return whether all layers of the model have the same spec, as by default in Bridge's gpt_provider.py.

    In that case moe_layer_freq has no effect.
    """
    return model.get("layer_spec") in _SPECS_OF_ONE_LAYER


def _experts(model: Mapping[str, Any]) -> Experts | None:
    number = model["num_moe_experts"]
    if not number:
        return None
    frequency, count = model["moe_layer_freq"], model["num_layers"]
    if has_uniform_layers(model):
        layers = (True,) * count
    elif isinstance(frequency, list):
        layers = tuple(bool(one) for one in frequency)
    else:
        layers = tuple(index % (frequency or 1) == 0 for index in range(count))
    return Experts(
        number=number,
        ffn=model["moe_ffn_hidden_size"] or model["ffn_hidden_size"],
        topk=model["moe_router_topk"],
        shared=model["moe_shared_expert_intermediate_size"] or 0,
        shared_gate=bool(model["moe_shared_expert_gate"]),
        layers=layers,
    )
