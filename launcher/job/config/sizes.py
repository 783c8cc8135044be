"""Do the parallel and batch sizes of a configuration fit the job's ranks? Asked first: Megatron's own words come late.

The rules are those of megatron-core (parallel_state.initialize_model_parallel, num_microbatches_calculator). Bridge
itself knows only some of them; the others end a job after all its processes have met.
"""

from typing import Any

from ...contract import batch_sizes
from ..errors import UserError

PARALLEL = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
)

_UNEVEN = (
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "pipeline_model_parallel_layout",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
)
"""Fields that spread layers over pipeline stages in another way than evenly."""


def transformer(config: Any) -> Any:
    """The part of the model's configuration that has the parallel sizes (GPTModelConfig keeps it one level deeper)."""
    return getattr(config.model, "transformer", config.model)


def check(config: Any, world_size: int) -> None:
    """Raise UserError, with the numbers and a way out, for sizes that cannot work on `world_size` ranks."""
    if type(config.model).__name__ == "MegatronMIMOProvider":
        raise UserError("a MegatronMIMO model is trained by a loop of its own in Megatron Bridge, not by pretrain()")
    if getattr(getattr(config.model, "dist_train", None), "use_dist_train", False):
        return  # the ranks are split between modules, each with sizes of its own: Bridge checks them
    model = transformer(config)
    if any(cls.__name__ == "GPTModelProvider" for cls in type(model).__mro__):
        _shape(model)
    tp, pp, cp, ep = (_size(model, name) for name in PARALLEL)
    if world_size % (tp * pp * cp):
        raise UserError(
            f"{world_size} ranks cannot be divided by TP {tp} x PP {pp} x CP {cp} = {tp * pp * cp}",
            hint="change model.tensor_model_parallel_size and its siblings, or the number of nodes",
        )
    _experts(model, world_size, pp, ep)
    _batches(config, world_size // (tp * pp * cp))
    _lengths(config, cp)


def check_split_of_experts(config: Any, final: Any, world_size: int) -> None:
    """The same of experts, once Bridge has settled how their weights are split (`final`) where `config` leaves it open.

    Bridge 0.6 splits them by EP alone then; 0.3 leaves it to megatron-core, which splits them by TP as all weights.
    """
    model, settled = transformer(config), transformer(final)
    if getattr(settled, "num_moe_experts", None) is None or getattr(model, "expert_tensor_parallel_size", None):
        return
    pp, ep = (_size(settled, name) for name in PARALLEL[1::2])
    etp = getattr(settled, "expert_tensor_parallel_size", None) or 1
    if world_size % (etp * ep * pp):
        raise UserError(
            f"{world_size} ranks cannot be divided by ETP {etp} x EP {ep} x PP {pp} = {etp * ep * pp}; this Megatron "
            f"Bridge splits experts by TP too (ETP {etp}) where model.expert_tensor_parallel_size is not set",
            hint=f"set model.expert_tensor_parallel_size=1, or use a multiple of {etp * ep * pp} ranks",
        )


def _size(section: Any, name: str, prefix: str = "model", least: int = 1) -> int:
    size = getattr(section, name, 1)
    if type(size) is not int or size < least:
        raise UserError(f"{prefix}.{name} must be an integer of at least {least}, and is {size!r}")
    return size


def _shape(model: Any) -> None:
    layers, hidden, heads = (_size(model, name) for name in ("num_layers", "hidden_size", "num_attention_heads"))
    if model.kv_channels is None and not model.multi_latent_attention and hidden % heads:
        raise UserError(f"model.hidden_size={hidden} cannot be divided by model.num_attention_heads={heads}")
    groups = model.num_query_groups
    if groups is not None and (groups < 1 or heads % groups):
        raise UserError(f"model.num_attention_heads={heads} cannot be divided by model.num_query_groups={groups}")
    stages, uneven = _size(model, "pipeline_model_parallel_size"), any(getattr(model, name, None) for name in _UNEVEN)
    if layers % stages and not uneven:
        raise UserError(
            f"model.num_layers={layers} cannot be divided by model.pipeline_model_parallel_size={stages}",
            hint="or say how the layers are spread: model.num_layers_in_first_pipeline_stage",
        )
    chunks = model.virtual_pipeline_model_parallel_size or 1
    if stages == 1 and chunks > 1:
        raise UserError(
            f"model.virtual_pipeline_model_parallel_size={chunks} needs a pipeline, "
            "and model.pipeline_model_parallel_size is 1"
        )


def _experts(model: Any, world_size: int, pp: int, ep: int) -> None:
    experts = getattr(model, "num_moe_experts", None)
    if experts is None:
        if ep > 1:
            raise UserError(
                f"model.expert_model_parallel_size={ep}, but the model has no experts (model.num_moe_experts is null)",
                hint="set model.expert_model_parallel_size=1",
            )
        return
    etp = getattr(model, "expert_tensor_parallel_size", None) or 1  # left open: see check_split_of_experts
    if world_size % (etp * ep * pp):
        raise UserError(
            f"{world_size} ranks cannot be divided by ETP {etp} x EP {ep} x PP {pp} = {etp * ep * pp}",
            hint="change model.expert_model_parallel_size, or the number of nodes",
        )
    if experts % ep:
        raise UserError(f"model.num_moe_experts={experts} cannot be divided by model.expert_model_parallel_size={ep}")
    if _size(model, "moe_router_topk") > experts:
        raise UserError(
            f"model.moe_router_topk={model.moe_router_topk} of model.num_moe_experts={experts} cannot be chosen"
        )


def _batches(config: Any, data_parallel: int) -> None:
    if config.train.train_iters is not None:
        _size(config.train, "train_iters", "train", least=0)
    micro, batch = _size(config.train, "micro_batch_size", "train"), _size(config.train, "global_batch_size", "train")
    wrong = batch_sizes.misfit(batch, micro, data_parallel)
    if wrong is not None:
        raise UserError(wrong[0], hint=wrong[1])


def _lengths(config: Any, cp: int) -> None:
    model, length = config.model, getattr(config.model, "seq_length", None)
    if not hasattr(model, "num_layers") or length is None:
        return
    data = getattr(config.dataset, "seq_length", length)
    if data != length:
        # Of some releases a computed name: the field is what a user can set.
        computed = isinstance(getattr(type(config.dataset), "seq_length", None), property)
        raise UserError(
            f"model.seq_length={length} and dataset.{'sequence_length' if computed else 'seq_length'}={data} differ",
            hint="the model takes what the dataset gives: set both",
        )
    if cp > 1 and length % (2 * cp):
        raise UserError(f"model.seq_length={length} cannot be divided by 2 x model.context_parallel_size={cp}")
