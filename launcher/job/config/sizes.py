"""Whether the parallel and batch sizes of a configuration fit the job's ranks, checked before Megatron does.

The rules are in contract/parallel_sizes.py. Bridge checks only some of them; the others end a job after all its
processes have met.
"""

from typing import Any, Optional

from ...contract import parallel_sizes
from ...contract.parallel_sizes import UNEVEN_LAYERS, Misfit
from ..errors import UserError

PARALLEL = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
)


def transformer(config: Any) -> Any:
    """Return the part of the model's configuration with the parallel sizes (GPTModelConfig has it one level deeper)."""
    return getattr(config.model, "transformer", config.model)


def check(config: Any, world_size: int) -> None:
    """Raise UserError, with the numbers and a way out, for sizes that cannot work on `world_size` ranks."""
    if type(config.model).__name__ == "MegatronMIMOProvider":
        raise UserError("a MegatronMIMO model is trained by a loop of its own in Megatron Bridge, not by pretrain()")
    if getattr(getattr(config.model, "dist_train", None), "use_dist_train", False):
        return  # the ranks are split between modules, each with sizes of its own: Bridge checks them
    model = transformer(config)
    if any(cls.__name__ == "GPTModelProvider" for cls in type(model).__mro__):
        _shape(model, world_size)
    tp, pp, cp, ep = (_size(model, name) for name in PARALLEL)
    _require(parallel_sizes.ranks_by_model(world_size, tp, pp, cp))
    _experts(model, world_size, pp, ep)
    _batches(config, world_size // (tp * pp * cp))
    _lengths(config, cp)


def check_split_of_experts(config: Any, final: Any, world_size: int) -> None:
    """Refuse sizes of experts that do not fit once Bridge has decided how their weights are split (`final`).

    Where `config` leaves it open, Bridge 0.6 splits them by EP alone; 0.3 leaves it to megatron-core, which splits them
    by TP as all weights. Raises UserError.
    """
    model, settled = transformer(config), transformer(final)
    if getattr(settled, "num_moe_experts", None) is None or getattr(model, "expert_tensor_parallel_size", None):
        return
    pp, ep = (_size(settled, name) for name in PARALLEL[1::2])
    etp = getattr(settled, "expert_tensor_parallel_size", None) or 1
    misfit = parallel_sizes.ranks_by_experts(world_size, etp, ep, pp)
    if misfit is not None:
        raise UserError(
            f"{misfit.text}; this Megatron Bridge splits experts by TP too (ETP {etp}) where "
            "model.expert_tensor_parallel_size is not set",
            hint=f"set model.expert_tensor_parallel_size=1, or use a multiple of {etp * ep * pp} ranks",
        )


def _require(misfit: Optional[Misfit]) -> None:
    """Raise UserError for sizes that do not fit."""
    if misfit is not None:
        raise UserError(misfit.text, hint=misfit.hint)


def _size(section: Any, name: str, prefix: str = "model", least: int = 1) -> int:
    size = getattr(section, name, 1)
    if type(size) is not int or size < least:
        raise UserError(f"{prefix}.{name} must be an integer of at least {least}, and is {size!r}")
    return size


def _shape(model: Any, world_size: int) -> None:
    layers, hidden, heads = (_size(model, name) for name in ("num_layers", "hidden_size", "num_attention_heads"))
    if model.kv_channels is None and not model.multi_latent_attention:
        _require(parallel_sizes.hidden_by_heads(hidden, heads))
    if model.num_query_groups is not None:
        _require(parallel_sizes.heads_by_groups(heads, model.num_query_groups))
    stages, chunks = _size(model, "pipeline_model_parallel_size"), model.virtual_pipeline_model_parallel_size or 1
    _require(parallel_sizes.virtual_stages(chunks, stages))
    if not any(getattr(model, name, None) for name in UNEVEN_LAYERS):
        _require(parallel_sizes.layers_by_stages(layers, stages, chunks, world_size))


def _experts(model: Any, world_size: int, pp: int, ep: int) -> None:
    experts = getattr(model, "num_moe_experts", None)
    _require(parallel_sizes.experts_exist(ep, experts))
    if experts is None:
        return
    etp = getattr(model, "expert_tensor_parallel_size", None) or 1  # left open: see check_split_of_experts
    _require(parallel_sizes.ranks_by_experts(world_size, etp, ep, pp))
    _require(parallel_sizes.experts_by_ranks(experts, ep, world_size))
    _require(parallel_sizes.chosen_experts(_size(model, "moe_router_topk"), experts))


def _batches(config: Any, data_parallel: int) -> None:
    if config.train.train_iters is not None:
        _size(config.train, "train_iters", "train", least=0)
    micro, batch = _size(config.train, "micro_batch_size", "train"), _size(config.train, "global_batch_size", "train")
    _require(parallel_sizes.batch(batch, micro, data_parallel))


def _lengths(config: Any, cp: int) -> None:
    model, length = config.model, getattr(config.model, "seq_length", None)
    if not hasattr(model, "num_layers") or length is None:
        return
    data = getattr(config.dataset, "seq_length", length)
    if data != length:
        # In some releases seq_length is computed, and users set the field behind it.
        computed = isinstance(getattr(type(config.dataset), "seq_length", None), property)
        raise UserError(
            f"model.seq_length={length} and dataset.{'sequence_length' if computed else 'seq_length'}={data} differ",
            hint="the model takes what the dataset gives: set both",
        )
    _require(parallel_sizes.sequence_by_context(length, cp))
