"""The model between the two formats: Bridge's, built on the ranks of this conversion."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from ...contract.conversion import ConversionRequest
from ..errors import UserError, first_line


def init_ranks(request: ConversionRequest) -> str:
    """Choose the device ("cpu" or "gpu") and join the other ranks; call it before any import of Megatron.

    Raises UserError where a requested GPU is missing.
    """
    warnings.simplefilter("ignore")
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if request.device == "gpu" and seen < request.ranks:
        raise UserError(
            f"{request.ranks} ranks need as many GPUs, but torch sees {seen} here", hint="convert with --device cpu"
        )
    device = "gpu" if request.device != "cpu" and seen >= request.ranks else "cpu"
    if device == "cpu":
        from .. import cpu

        cpu.enable()
        torch.distributed.init_process_group("gloo")
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")
    return device


def build(
    bridge: Any,
    request: ConversionRequest,
    device: str,
    dtype: Optional[Any],
    prepare: "Optional[Callable[[list[Any]], list[Any]]]" = None,
) -> "list[Any]":
    """Return Bridge's model of `bridge`'s architecture, parameters not set, as this rank's list of pipeline chunks.

    `dtype` (a torch.dtype) is that of its parameters; None means the architecture's. `prepare` gets the chunks
    before they are wrapped, sets what it sets of them, and returns them. Raises UserError.
    """
    import torch

    provider = bridge.to_megatron_provider(load_weights=False)
    if dtype is not None:
        provider.params_dtype = dtype
        provider.bf16, provider.fp16 = dtype is torch.bfloat16, dtype is torch.float16
    provider.tensor_model_parallel_size = request.tp
    provider.pipeline_model_parallel_size = request.pp
    provider.pipeline_dtype = provider.params_dtype
    provider.sequence_parallel = False
    provider.gradient_accumulation_fusion = False  # nothing is trained, and the kernel needs APEX
    if provider.num_moe_experts:
        provider.expert_model_parallel_size = request.ep
        provider.expert_tensor_parallel_size = request.etp
    elif request.ep > 1:
        raise UserError(f"--ep {request.ep} has no effect: this model has no experts")
    _refuse_sizes(provider, request)
    if device == "cpu":
        from .. import cpu

        cpu.prepare_model(provider)
    provider.perform_initialization = False
    if prepare is not None:
        provider.register_pre_wrap_hook(prepare)
    provider.finalize()
    provider.initialize_model_parallel(seed=0)
    model: list[Any] = provider.provide_distributed_model(
        wrap_with_ddp=False, use_cpu_initialization=device == "cpu", bf16=provider.bf16, fp16=provider.fp16
    )
    if prepare is None:
        fill_with_nan(model)
    return model


def fill_with_nan(model: "list[Any]", only: str = "") -> None:
    """Set floating-point parameters (those with `only` in their names) to NaN, to notice which are not loaded later."""
    import torch

    with torch.no_grad():
        for chunk in model:
            for name, parameter in chunk.named_parameters():
                if only in name and parameter.is_floating_point():
                    parameter.fill_(float("nan"))


def load_checkpoint(model: "list[Any]", iteration: Path) -> None:
    """Load the weights of the checkpoint `iteration`. Raises UserError where they are not this model's."""
    from megatron.bridge.training.checkpointing import _load_model_weights_from_checkpoint

    try:
        _load_model_weights_from_checkpoint(str(iteration), model)
    except Exception as error:
        first = first_line(error) or type(error).__name__
        raise UserError(
            f"the checkpoint's weights do not fit this architecture: {first}", where=str(iteration)
        ) from error
    require_all_set(model, str(iteration))


def require_all_set(model: "list[Any]", where: str) -> None:
    """Refuse a model with a parameter that was not set since `fill_with_nan`. Raises UserError."""
    import torch

    for chunk in model:
        for name, parameter in chunk.named_parameters():
            if parameter.is_floating_point() and bool(torch.isnan(parameter).all()):
                raise UserError(f"the weights of {name} are missing or NaN", where=where)


def export_tensors(
    bridge: Any, model: "list[Any]", dtype: Optional[Any] = None, merge: bool = True
) -> "Iterator[tuple[str, Any]]":
    """Yield every complete tensor of the model by its Hugging Face name, on every rank, cast to `dtype` if given.

    Adapters are added to the weights, or with `merge=False` left out: then Bridge writes the peft library's names,
    in which a weight with adapters is the base layer of its module.

    Bridge 0.6.2 leaves in the embedding the rows that tensor parallelism added to fill the last rank; they are cut.
    """
    config = getattr(bridge.hf_pretrained, "config", bridge.hf_pretrained)
    tokens = int(config.get_text_config().vocab_size)
    for name, tensor in bridge.export_hf_weights(
        model, cpu=True, show_progress=False, weight_dtype=dtype, merge_adapter_weights=merge
    ):
        padded = ("embed_tokens" in name or "lm_head" in name) and tensor.ndim > 0 and tensor.shape[0] > tokens
        yield name.replace(".base_layer.", "."), tensor[:tokens] if padded else tensor


def dtype_of(name: Optional[str]) -> Optional[Any]:
    """Return torch's dtype of that name."""
    import torch

    return getattr(torch, name) if name else None


@contextlib.contextmanager
def supported(where: str) -> Iterator[None]:
    """Turn Bridge's pages about an unknown architecture into a UserError of one sentence, inside the block."""
    try:
        yield
    except ValueError as error:
        lines = [line.strip(" ✗") for line in str(error).splitlines() if line.strip(" ✗")]
        raise UserError(
            f"Megatron Bridge cannot convert this model: {lines[0] if lines else type(error).__name__}",
            where=where,
            hint=next((line for line in lines if line.startswith("Architectures:")), None),
        ) from error


def _refuse_sizes(provider: Any, request: ConversionRequest) -> None:
    if provider.num_layers % request.pp:
        raise UserError(f"--pp {request.pp} does not divide the model's {provider.num_layers} layers")
    if provider.num_attention_heads % request.tp:
        raise UserError(f"--tp {request.tp} does not divide the model's {provider.num_attention_heads} attention heads")
    experts = provider.num_moe_experts
    if experts and experts % request.ep:
        raise UserError(f"--ep {request.ep} does not divide the model's {experts} experts")
    if provider.vocab_size % request.tp:
        provider.should_pad_vocab, provider.make_vocab_size_divisible_by = True, 1
