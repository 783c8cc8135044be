"""Whether this process may ask Hugging Face's hub: in its environment, and in libraries that have read that already.

huggingface_hub, transformers and datasets read their variables once, when they are imported. huggingface_hub 1.x and
0.x keep the answer in `constants.HF_HUB_OFFLINE`, datasets in `config.HF_HUB_OFFLINE` (before 2.18
`HF_DATASETS_OFFLINE`), transformers up to 4.x in `utils.hub._is_offline_mode` (from 5 on it asks huggingface_hub).
"""

import contextlib
import os
import sys
from collections.abc import Iterator

VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

MARKER = "LAUNCHER_FETCHES"
"""Set where it was the launcher that set these variables: a program that starts itself anew finds them."""

_CONSTANTS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("transformers.utils.hub", "_is_offline_mode"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)


def begin() -> bool:
    """Go offline where the launcher is to fetch; False where the user's environment has decided it either way."""
    decided = any(os.environ.get(name) for name in VARIABLES)
    if decided and not (os.environ.get(MARKER) and os.environ.get("HF_HUB_OFFLINE") == "1"):
        os.environ.pop(MARKER, None)
        return False
    os.environ[MARKER] = "1"
    switch(True)
    return True


def is_on() -> bool:
    """Whether the environment forbids to ask the hub."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in VARIABLES[:2])


def switch(on: bool) -> None:
    """Forbid or allow requests from now on, in this process and in those that it starts."""
    for name in VARIABLES:
        if on:
            os.environ[name] = "1"
        else:
            os.environ.pop(name, None)
    for module, name in _CONSTANTS:
        loaded = sys.modules.get(module)
        if loaded is not None and hasattr(loaded, name):
            setattr(loaded, name, on)


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """Inside the block the hub may be asked."""
    switch(False)
    try:
        yield
    finally:
        switch(True)
