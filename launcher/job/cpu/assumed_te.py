"""Validation of a GPU configuration on a machine without GPU and Transformer Engine, which is assumed to be there.

megatron-core and Bridge refuse a configuration whose fused kernels are not installed. A login node has none of them,
but the job's image has. So while Bridge validates a configuration with Transformer Engine's layers, this process
answers as if a recent Transformer Engine was installed and the GPU was a Hopper; the job validates again with what it
really has. A configuration prepared for CPU (configuration.py) has local layers and is judged by this machine.
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
"""Names that without Transformer Engine are None (absent in 0.16.1), and that validation only checks for presence."""


class FusedAdam:
    """Stand-in with the parameters by which megatron-core recognises an optimizer with low-precision state."""

    def __init__(
        self,
        master_weight_dtype: Any = None,
        exp_avg_dtype: Any = None,
        exp_avg_sq_dtype: Any = None,
        use_decoupled_grad: bool = False,
    ) -> None:
        """Never called: only the signature is read."""


def is_absent() -> bool:
    """Return whether this machine has no Transformer Engine."""
    return importlib.util.find_spec("transformer_engine") is None


def wrap(update: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wrap Bridge's runtime_config_update() so that it judges a GPU configuration as the job's machine will."""

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
    """Let the checks for Transformer Engine find one inside the block."""
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
        # The job's GPU is not known; all dispatchers of experts accept this one.
        hopper = types.SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=0)
        cuda = vars(importlib.import_module("torch.cuda"))
        stack.enter_context(_item(cuda, "get_device_properties", lambda *_arguments, **_keywords: hopper))
        yield


def _modules_of_te() -> tuple[str, ...]:
    parts = ("transformer_engine", "pytorch", "optimizers")
    return tuple(".".join(parts[: count + 1]) for count in range(len(parts)))


@contextlib.contextmanager
def _item(mapping: dict[str, Any], key: str, value: Any) -> Iterator[None]:
    """Set `mapping[key]` to `value` inside the block, and restore it afterwards."""
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
