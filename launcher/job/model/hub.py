"""The source of a recipe's architecture: the user's Hugging Face cache, else a file of configs/models.

A Bridge recipe names its model as Hugging Face's hub does ("Qwen/Qwen3-8B"). Inside `provide_architectures()` Bridge
finds the `config.json` of a model that ships even where there is no network and the user's cache has no copy. A copy in
that cache wins, because the user fetched it; so does a model that is named in place of the recipe's own (`hf_path`).
"""

import contextlib
import contextvars
import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ..config import notes
from . import architectures as models

_OVERRIDE: contextvars.ContextVar[Optional[str]] = contextvars.ContextVar("architecture asked for", default=None)
_OVERRIDES_USED: list[str] = []


@contextlib.contextmanager
def provide_architectures() -> Iterator[None]:
    """Let Bridge's AutoBridge find the architectures that ship, inside the block; others as usual."""
    from megatron.bridge import AutoBridge

    _OVERRIDES_USED.clear()
    load, convert = AutoBridge.__dict__["from_hf_pretrained"], AutoBridge.to_megatron_provider
    AutoBridge.from_hf_pretrained = classmethod(_load(load.__func__))
    AutoBridge.to_megatron_provider = _convert(convert)
    try:
        yield
    finally:
        AutoBridge.from_hf_pretrained, AutoBridge.to_megatron_provider = load, convert


@contextlib.contextmanager
def override_model(hf_path: Optional[str]) -> Iterator[None]:
    """Make a recipe build the architecture of `hf_path` (a directory or a hub name) inside the block.

    Every field that the recipe sets afterwards is kept. None changes nothing.
    """
    token = _OVERRIDE.set(str(hf_path) if hf_path else _OVERRIDE.get())
    try:
        yield
    finally:
        _OVERRIDE.reset(token)


def overriding_model() -> Optional[str]:
    """Return the `hf_path` that replaced a recipe's architecture since `provide_architectures()` was entered."""
    return _OVERRIDES_USED[-1] if _OVERRIDES_USED else None


def shipped() -> dict[str, Path]:
    """Return the file of each model in configs/models, by the model's names on the hub."""
    return {name: path for path in models.files() for name in models.hub_names(path)}


def _load(original: Any) -> Any:
    @functools.wraps(original)
    def from_hf_pretrained(cls: Any, path: Any, *arguments: Any, **keywords: Any) -> Any:
        other = _OVERRIDE.get()
        if other is not None:
            _OVERRIDES_USED.append(other)
        if other is not None and other != str(path):
            notes.add(f"architecture: {other}, in place of {path}")
            keywords.pop("revision", None)  # that of the replaced model
            path = other
        with provide_config(str(path), keywords.get("revision")):
            return original(cls, path, *arguments, **keywords)

    return from_hf_pretrained


def _convert(original: Any) -> Any:
    @functools.wraps(original)
    def to_megatron_provider(self: Any, *arguments: Any, **keywords: Any) -> Any:
        # It asks for generation_config.json, which without network only the same cache can answer.
        name = str(getattr(self.hf_pretrained, "model_name_or_path", ""))
        with provide_config(name, getattr(self, "hf_model_revision", None)):
            return original(self, *arguments, **keywords)

    return to_megatron_provider


@contextlib.contextmanager
def provide_config(name: str, revision: Optional[str] = None) -> Iterator[None]:
    """Let the model `name` be found inside the block, if it ships; no other configuration may be loaded there."""
    file = shipped().get(name)
    if file is None or Path(name).is_dir():
        yield
        return
    own = _in_cache(name, revision)
    if own is not None:
        notes.add(f"architecture of {name}: from {own}, a copy from the hub")
        yield
        return
    notes.add(f"architecture of {name}: from the launcher's {file.name} (the Hugging Face cache has no copy)")
    with tempfile.TemporaryDirectory(prefix="launcher-hub-") as directory:
        hub = Path(directory) / "hub"
        commit = revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else models.SNAPSHOT
        models.write_cache(hub, name, models.model_config(file.stem), commit)
        with models.use_cache(hub):
            yield


def snapshot(name: str, revision: Optional[str] = None) -> Optional[Path]:
    """Return where the user's Hugging Face cache has files of the model `name`; None without a config.json."""
    own = _in_cache(name, revision)
    return Path(own).parent if own is not None else None


def _in_cache(name: str, revision: Optional[str]) -> Optional[str]:
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE, revision=revision)
    return found if isinstance(found, str) else None
