"""CUDA extensions that a configuration needs and that Megatron misses only when the model is built."""

import importlib.util
from typing import Any

from ..config import sizes
from ..errors import UserError

_ACCUMULATION = "fused_weight_gradient_mlp_cuda"


def require(config: Any) -> None:
    """Raise UserError where this Python lacks what `config` needs on a GPU.

    megatron-core's own linear layers, the output layer among them, accumulate gradients with APEX's kernel
    (tensor_parallel/layers.py of 0.19.2). Bridge 0.6.2 leaves the fusion on where Transformer Engine alone is there.
    """
    fused = getattr(sizes.transformer(config), "gradient_accumulation_fusion", False)
    if fused and importlib.util.find_spec(_ACCUMULATION) is None:
        raise UserError(
            f"model.gradient_accumulation_fusion=true needs APEX's {_ACCUMULATION}, which is not installed here",
            hint="set model.gradient_accumulation_fusion=false, or take an image with APEX and its CUDA extensions",
        )
