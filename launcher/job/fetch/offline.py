"""Whether this process may ask Hugging Face's hub: in its environment, and in libraries that have already read that.

huggingface_hub, transformers and datasets read their variables once, when they are imported. huggingface_hub 1.x and
0.x keep the answer in `constants.HF_HUB_OFFLINE`, datasets in `config.HF_HUB_OFFLINE` (before 2.18
`HF_DATASETS_OFFLINE`), transformers up to 4.x in `utils.hub._is_offline_mode` (from 5 on it asks huggingface_hub).
"""

import contextlib
import os
import sys
from collections.abc import Iterator

from ...contract.hub import OFFLINE_VARIABLES

MARKER = "LAUNCHER_FETCHES"
"""Set by the launcher beside these variables, so that a program that starts itself anew knows who set them."""

_CONSTANTS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("transformers.utils.hub", "_is_offline_mode"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)


def begin() -> bool:
    """Go offline where the launcher fetches; return False where the user's environment decides, either way."""
    decided = any(os.environ.get(name) for name in OFFLINE_VARIABLES)
    if decided and not (os.environ.get(MARKER) and os.environ.get("HF_HUB_OFFLINE") == "1"):
        os.environ.pop(MARKER, None)
        return False
    os.environ[MARKER] = "1"
    set_offline(True)
    return True


def set_offline(on: bool) -> None:
    """Forbid or allow requests from now on, in this process and in those that it starts."""
    for name in OFFLINE_VARIABLES:
        if on:
            os.environ[name] = "1"
        else:
            os.environ.pop(name, None)
    for module, name in _CONSTANTS:
        loaded = sys.modules.get(module)
        if loaded is not None and hasattr(loaded, name):
            setattr(loaded, name, on)


@contextlib.contextmanager
def allow_requests() -> Iterator[None]:
    """Allow requests to the hub inside the block."""
    set_offline(False)
    try:
        yield
    finally:
        set_offline(True)
