"""Lets releases of Megatron Bridge be imported that need Transformer Engine and the like even for naming a recipe.

Only Bridge itself is shown the stand-ins: megatron-core goes without these packages, and is to see that they are
absent.
"""

import builtins
import importlib.util
from typing import Any

_PACKAGES = (
    "causal_conv1d",
    "mamba_ssm",
    "megatron.energon",
    "modelopt",
    "nemo_run",
    "nvidia_resiliency_ext",
    "qwen_vl_utils",
    "transformer_engine",
    "webdataset",
)


class _Instance:
    """What such a class makes."""


class _Absent(type):
    """Stands for a module or a name in one: every attribute is a class of which nothing is an instance."""

    def __getattr__(cls, name: str) -> "_Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(name, (), {})

    def __getitem__(cls, _types: Any) -> "_Absent":
        return cls

    def __call__(cls, *_arguments: Any, **_keywords: Any) -> Any:
        return type.__call__(_Instance)


def install() -> None:
    """Answer Bridge's imports of packages that are not installed, for the rest of the process."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    real = builtins.__import__

    def answer(name: str, scope: Any = None, *rest: Any, **more: Any) -> Any:
        importer = str((scope or {}).get("__name__", ""))
        if importer.startswith("megatron.bridge.") and any(f"{name}.".startswith(f"{one}.") for one in absent):
            return _Absent("absent", (), {})
        return real(name, scope, *rest, **more)

    builtins.__import__ = answer  # type: ignore[assignment]
