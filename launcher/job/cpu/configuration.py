"""Changes to a GPU configuration that make it run on CPU: local layers, no fused kernels, gloo."""

import dataclasses
import functools
import importlib.metadata
import logging
from typing import Any

from launcher.job.errors import UserError

logger = logging.getLogger(__name__)

FUSIONS = (
    "gradient_accumulation_fusion",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "apply_rope_fusion",
    "persist_layer_norm",
    "cross_entropy_loss_fusion",
    "moe_grouped_gemm",
    "moe_permute_fusion",
    "moe_router_fusion",
    # The overlap runs the shared expert on a second CUDA stream.
    "moe_shared_expert_overlap",
    "tp_comm_overlap",
    "use_te_rng_tracker",
    "use_transformer_engine_full_layer_spec",
    "use_transformer_engine_op_fuser",
)
"""Fields of a GPT model's configuration that choose GPU kernels; plain operations compute the same numbers."""


def prepare(config: Any) -> Any:
    """Make `config` (any GPT configuration of Bridge) run on CPU; return it, changed in place.

    Raises UserError for what needs Transformer Engine (multi-latent attention, context parallelism) and for other
    models.
    """
    refuse(config)
    before = _flat(config)
    _local(config.model)
    _rest(config)
    changes = [f"{key}={value!r}" for key, value in _flat(config).items() if before.get(key) != value]
    logger.info("for CPU: %s", ", ".join(changes) or "nothing to change")
    return config


def prepare_model(model: Any) -> None:
    """Make a model's configuration alone run on CPU, for a model that is not trained. Raises UserError."""
    _refuse_model(model)
    _local(model)


def refuse(config: Any) -> None:
    """Refuse, with the reason, a configuration that this back end cannot train. Raises UserError."""
    _refuse_model(config.model)
    if config.ddp.use_megatron_fsdp or config.dist.use_torch_fsdp2:
        raise UserError("FSDP does not run on CPU: its sharding needs CUDA streams", hint="run it on GPUs")


def _refuse_model(model: Any) -> None:
    from megatron.bridge.models.gpt_provider import GPTModelProvider

    if not isinstance(model, GPTModelProvider):
        raise UserError(
            f"the CPU back end trains only GPT models, but this recipe's model is a {type(model).__name__}",
            hint="run it on GPUs",
        )
    if model.multi_latent_attention:
        raise UserError(
            "multi-latent attention does not run on CPU: megatron-core 0.19.2's DotProductAttention takes no "
            "k_channels and v_channels, and its local layer specification resolves to fused classes of "
            "Transformer Engine",
            hint="run it on GPUs, or try a mixture of experts without it (recipes/qwen3_moe_pretrain.py)",
        )
    chunks = getattr(model, "virtual_pipeline_model_parallel_size", None) or 1
    if chunks > 1 and importlib.metadata.version("megatron-core").startswith("0.16."):
        raise UserError(
            f"model.virtual_pipeline_model_parallel_size={chunks} does not run on CPU with megatron-core 0.16: its "
            "losses vary between runs",
            hint="leave it out to try the recipe on CPU, or use Megatron Bridge 0.6",
        )
    if model.context_parallel_size > 1:
        raise UserError(
            f"model.context_parallel_size={model.context_parallel_size} does not run on CPU: megatron-core 0.19.2 has "
            "context parallelism only in Transformer Engine's attention",
            hint="set model.context_parallel_size=1 to try the recipe on CPU",
        )


def _local(model: Any) -> None:
    model.transformer_layer_spec = _local_spec(model.transformer_layer_spec)
    model.transformer_impl = "local"
    model.use_cpu_initialization = True
    model.cuda_graph_impl = "none"
    model.attention_backend = None
    for name in FUSIONS:
        if getattr(model, name, None):
            setattr(model, name, False)
    if model.num_moe_experts is not None and model.moe_token_dispatcher_type == "flex":  # noqa: S105 not a password
        # DeepEP and HybridEP are libraries of GPU kernels; alltoall moves the same tokens.
        model.moe_token_dispatcher_type = "alltoall"  # noqa: S105 not a password
        model.moe_flex_dispatcher_backend = None


def _local_spec(spec: Any) -> Any:
    from megatron.bridge.models import gpt_provider

    if isinstance(spec, functools.partial) and "use_transformer_engine" in spec.keywords:
        return functools.partial(spec.func, *spec.args, **{**spec.keywords, "use_transformer_engine": False})
    # Bridge's own function: a checkpoint stores the specification by name, and refuses names with a leading underscore.
    return gpt_provider.local_layer_spec


def _rest(config: Any) -> None:
    config.dist.distributed_backend = "gloo"
    # It configures the overlap of communication with GPU kernels, and would set fields of the model again.
    config.comm_overlap = None
    if isinstance(config.mixed_precision, str) and any(word in config.mixed_precision for word in ("fp8", "fp4")):
        config.mixed_precision = "bf16_mixed"
    # Worker processes would share the cores with the ranks; order and content of the data do not depend on them.
    config.dataset.num_workers = 0
    config.dataset.persistent_workers = False
    config.dataset.pin_memory = False


def _flat(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        if dataclasses.is_dataclass(section):
            # Some sections have fields that are set only when they are finalized.
            values.update(
                {
                    f"{field.name}.{inner.name}": getattr(section, inner.name, None)
                    for inner in dataclasses.fields(section)
                }
            )
        else:
            values[field.name] = section
    return values
