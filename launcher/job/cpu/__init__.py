"""The CPU back end: Megatron Bridge's own training loop over gloo, on machines without a GPU.

Imported only where a rank computes on CPU. `enable()` makes "cuda" mean "cpu" in this process and fills the gaps that
Megatron has without Transformer Engine; `prepare(config)` turns off in one configuration what exists only on GPUs.
Recipes are not aware of either.
"""

from .configuration import prepare, prepare_model
from .enabling import PATCHES, allow_import, enable, patches
from .patch import Patch

__all__ = ["PATCHES", "Patch", "allow_import", "enable", "patches", "prepare", "prepare_model"]
