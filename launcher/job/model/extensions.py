"""CUDA extensions that a configuration needs; without this check Megatron misses them only when it builds the model."""

import importlib.util
from typing import Any

from ..config import sizes
from ..errors import UserError

_ACCUMULATION = "fused_weight_gradient_mlp_cuda"


def require(config: Any) -> None:
    """Refuse a configuration on a GPU whose extensions this Python lacks. Raises UserError.

    megatron-core's own linear layers, the output layer among them, accumulate gradients with APEX's kernel
    (tensor_parallel/layers.py of 0.19.2). Bridge 0.6.2 leaves the fusion on where only Transformer Engine is installed.
    """
    fused = getattr(sizes.transformer(config), "gradient_accumulation_fusion", False)
    if fused and importlib.util.find_spec(_ACCUMULATION) is None:
        raise UserError(
            f"model.gradient_accumulation_fusion=true needs APEX's {_ACCUMULATION}, which is not installed here",
            hint="set model.gradient_accumulation_fusion=false, or use an image that has APEX with its CUDA extensions",
        )
