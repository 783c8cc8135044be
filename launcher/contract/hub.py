"""Names on Hugging Face's hub, and the environment variables that forbid to ask it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_TRUE = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub and transformers read as true, in any case of letters."""


def is_hub_name(value: Any) -> bool:
    """Return whether `value` is `OWNER/NAME` or `NAME` and no file or directory of that name exists here."""
    return isinstance(value, str) and bool(_NAME.fullmatch(value)) and not Path(value).exists()


def is_offline(environ: Mapping[str, str]) -> bool:
    """Return whether an environment forbids asking the hub for models; HF_DATASETS_OFFLINE is for data sets alone."""
    return any(environ.get(name, "").upper() in _TRUE for name in OFFLINE_VARIABLES[:2])
