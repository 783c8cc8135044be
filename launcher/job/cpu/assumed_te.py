"""Validation of a configuration for GPUs on a machine that has neither: Transformer Engine is taken to be there.

megatron-core and Bridge refuse a configuration whose fused kernels are not installed here. A login node has none of
them, and the job's image does. So while Bridge validates a configuration whose layers are Transformer Engine's, this
process answers as if a recent one was installed, and as if the GPU was a Hopper; the job itself validates again with
those that it really has. A configuration made ready for CPU (configuration.py) has local layers, and is judged by what
this machine has.
"""

import contextlib
import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_KERNELS = {
    "megatron.core.models.common.embeddings.rope_utils": (
        "fused_apply_rotary_pos_emb",
        "fused_apply_rotary_pos_emb_thd",
    ),
    "megatron.core.transformer.moe.moe_utils": (
        "fused_permute",
        "fused_permute_with_probs",
        "fused_sort_chunks_by_index",
        "fused_sort_chunks_by_index_with_probs",
        "fused_unpermute",
    ),
}
"""Names that are None, in 0.16.1 absent, where Transformer Engine is, and are only looked at."""


class FusedAdam:
    """The parameters by which megatron-core recognises an optimizer that can keep its state in fewer bits."""

    def __init__(
        self,
        master_weight_dtype: Any = None,
        exp_avg_dtype: Any = None,
        exp_avg_sq_dtype: Any = None,
        use_decoupled_grad: bool = False,
    ) -> None:
        """Never made: only its signature is read."""


def is_absent() -> bool:
    """Whether this machine has no Transformer Engine."""
    return importlib.util.find_spec("transformer_engine") is None


def wrap(update: Callable[[Any], None]) -> Callable[[Any], None]:
    """Bridge's runtime_config_update(), which judges a configuration for GPUs as their machine will."""

    @functools.wraps(update)
    def runtime_config_update(config: Any) -> None:
        model = getattr(config.model, "transformer", config.model)
        if getattr(model, "transformer_impl", None) != "transformer_engine":
            update(config)
            return
        with _assumed():
            update(config)

    return runtime_config_update


@contextlib.contextmanager
def _assumed() -> Iterator[None]:
    """Inside the block the checks for Transformer Engine find one."""
    with contextlib.ExitStack() as stack:
        for name in _modules_of_te():
            stack.enter_context(_item(sys.modules, name, types.ModuleType(name)))
        vars(sys.modules["transformer_engine.pytorch.optimizers"])["FusedAdam"] = FusedAdam
        for module_name, kernels in _KERNELS.items():
            names = vars(importlib.import_module(module_name))
            for kernel in kernels:
                if names.get(kernel) is None:
                    stack.enter_context(_item(names, kernel, FusedAdam))
        for module in [one for name, one in list(sys.modules.items()) if name.startswith("megatron.")]:
            names = vars(module)
            if callable(names.get("is_te_min_version")):
                stack.enter_context(_item(names, "is_te_min_version", lambda *_args, **_keywords: True))
        overlap = vars(importlib.import_module("megatron.bridge.training.comm_overlap"))
        if "HAVE_TE" in overlap:
            stack.enter_context(_item(overlap, "HAVE_TE", True))
        # Which GPU the job gets is not known: one that all dispatchers of experts accept.
        hopper = types.SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=0)
        cuda = vars(importlib.import_module("torch.cuda"))
        stack.enter_context(_item(cuda, "get_device_properties", lambda *_arguments, **_keywords: hopper))
        yield


def _modules_of_te() -> tuple[str, ...]:
    parts = ("transformer_engine", "pytorch", "optimizers")
    return tuple(".".join(parts[: count + 1]) for count in range(len(parts)))


@contextlib.contextmanager
def _item(mapping: dict[str, Any], key: str, value: Any) -> Iterator[None]:
    """`mapping[key]` is `value` inside the block, and afterwards as before."""
    absent = object()
    before = mapping.get(key, absent)
    mapping[key] = value
    try:
        yield
    finally:
        if before is absent:
            del mapping[key]
        else:
            mapping[key] = before
