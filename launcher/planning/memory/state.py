"""Bytes per parameter: weight, gradient, optimizer state.

Megatron-LM's theoretical_memory_usage.py counts 2 + 4 + 12 with bf16 weights, fp32 gradients and Adam; the distributed
optimizer shards the 12 over the ranks that hold the same parameters (core/optimizer/distrib_optimizer.py; ZeRO stage 1,
Rajbhandari et al. 2019, arXiv 1910.02054). The precision-aware optimizer has its own types
(core/optimizer/optimizer_config.py), but for the main weights only if `use_precision_aware_optimizer_no_fp8_or_ds_fp8`
is true. It is false in many of Bridge's recipes, because Bridge's mixed precision names an fp8_recipe for bf16 too. In
that case megatron-core keeps fp32 main weights and copies the gradients to fp32 in each step (distrib_optimizer.py,
_copy_model_grads_to_main_grads).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "uint8": 1, "float8_e4m3fn": 1}
_SGD_STATES = 1
_ADAM_STATES = 2


@dataclass(frozen=True)
class PerParameter:
    """Bytes per parameter on one rank; `optimizer` and `step` before sharding."""

    weight: float
    gradient: int
    optimizer: float
    step: float
    """Gradients in fp32 during the optimizer step, if they were reduced in another type. Sharded like its state."""
    shard_optimizer: bool
    shard_gradient: bool
    shard_weight: bool
    instances: int

    def optimizer_on(self, ranks: int) -> float:
        """Return the bytes of optimizer state if `ranks` ranks hold the same parameter."""
        return self.optimizer / max(1, ranks // self.instances) if self.shard_optimizer else self.optimizer

    def step_on(self, ranks: int) -> float:
        """Return the bytes of the optimizer step if `ranks` ranks hold the same parameter."""
        return self.step / max(1, ranks // self.instances) if self.shard_optimizer else self.step

    def gradient_on(self, ranks: int) -> float:
        """Return the bytes of the gradient if `ranks` ranks hold the same parameter."""
        return self.gradient / ranks if self.shard_gradient else self.gradient

    def weight_on(self, ranks: int) -> float:
        """Return the bytes of the weight if `ranks` ranks hold the same parameter."""
        return self.weight / ranks if self.shard_weight else self.weight


def per_parameter(config: Mapping[str, Any]) -> PerParameter:
    """Return the bytes per trained parameter of a checked configuration."""
    model, ddp, optimizer = config["model"], config["ddp"] or {}, config["optimizer"] or {}
    mixed = bool(model["bf16"] or model["fp16"])
    width = 2 if mixed else 4
    gradient = 4 if ddp.get("grad_reduce_in_fp32") or not mixed else 2
    fsdp = ddp.get("data_parallel_sharding_strategy") if ddp.get("use_megatron_fsdp") else None
    kept = 1.0 - _offloaded(optimizer)
    return PerParameter(
        # Quantised linear layers keep a row-wise and a column-wise copy of one byte each beside their bf16 weight,
        # unless the 8-bit weights are the parameters themselves.
        weight=width + _copies(model),
        gradient=gradient,
        optimizer=kept * _optimizer(optimizer, mixed=mixed, bf16=bool(model["bf16"])),
        step=kept * 4 if gradient < 4 and not _own_types(optimizer) else 0,
        shard_optimizer=bool(
            ddp.get("use_distributed_optimizer")
            or optimizer.get("use_distributed_optimizer")
            or fsdp not in (None, "no_shard")
        ),
        shard_gradient=fsdp in ("optim_grads", "optim_grads_params"),
        shard_weight=fsdp == "optim_grads_params",
        instances=ddp.get("num_distributed_optimizer_instances") or 1,
    )


def _copies(model: Mapping[str, Any]) -> float:
    """Return the bytes of a weight's copies in 8 or 4 bits, one by row and one by column."""
    if model.get("fp4"):
        return 0 if model.get("fp4_param") else 2 * (0.5 + 1 / 16)
    return 2 if model["fp8"] and not model["fp8_param"] else 0


def _optimizer(optimizer: Mapping[str, Any], *, mixed: bool, bf16: bool) -> int:
    states = _SGD_STATES if str(optimizer.get("optimizer")) in ("sgd", "lion") else _ADAM_STATES
    if not optimizer.get("use_precision_aware_optimizer"):
        return 4 * states + (4 if mixed else 0)
    main = _BYTES.get(str(optimizer.get("main_params_dtype")), 4)
    if not mixed:
        main = 0
    elif main == 4 and bf16 and _own_types(optimizer) and optimizer.get("store_param_remainders"):
        # The bf16 weight holds the other 16 bits of the fp32 value.
        main = 2
    return main + sum(
        _BYTES.get(str(optimizer.get(name)), 4) for name in ("exp_avg_dtype", "exp_avg_sq_dtype")[:states]
    )


def _own_types(optimizer: Mapping[str, Any]) -> bool:
    """Return whether the optimizer's kernel holds the main weights and accepts gradients of any type."""
    if not optimizer.get("use_precision_aware_optimizer"):
        return False
    return optimizer.get("use_precision_aware_optimizer_no_fp8_or_ds_fp8") is not False


def _offloaded(optimizer: Mapping[str, Any]) -> float:
    return float(optimizer.get("optimizer_offload_fraction") or 0.0) if optimizer.get("optimizer_cpu_offload") else 0.0
