"""Where a recipe's architecture comes from: the user's Hugging Face cache, else a file of configs/models.

A recipe of Bridge names its model as Hugging Face's hub does ("Qwen/Qwen3-8B"). Inside `architectures()` Bridge finds
the `config.json` of a model that ships even where there is no network and the user's cache has none. A copy in that
cache wins, because the user fetched it; so does a model that is asked for in place of the recipe's own (`hf_path`).
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

_INSTEAD: contextvars.ContextVar[Optional[str]] = contextvars.ContextVar("architecture asked for", default=None)
_REPLACED_BY: list[str] = []


@contextlib.contextmanager
def architectures() -> Iterator[None]:
    """Inside the block Bridge's AutoBridge knows the architectures that ship; all others it finds as ever."""
    from megatron.bridge import AutoBridge

    _REPLACED_BY.clear()
    load, convert = AutoBridge.__dict__["from_hf_pretrained"], AutoBridge.to_megatron_provider
    AutoBridge.from_hf_pretrained = classmethod(_load(load.__func__))
    AutoBridge.to_megatron_provider = _convert(convert)
    try:
        yield
    finally:
        AutoBridge.from_hf_pretrained, AutoBridge.to_megatron_provider = load, convert


@contextlib.contextmanager
def instead(hf_path: Optional[str]) -> Iterator[None]:
    """Inside the block a recipe builds the architecture of `hf_path` (a directory or a hub name), not its own.

    So every field that the recipe sets afterwards is kept. None changes nothing.
    """
    token = _INSTEAD.set(str(hf_path) if hf_path else _INSTEAD.get())
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def replaced_by() -> Optional[str]:
    """The `hf_path` whose architecture a recipe took in place of its own, since `architectures()` was last entered."""
    return _REPLACED_BY[-1] if _REPLACED_BY else None


def shipped() -> dict[str, Path]:
    """The hub's names of the models in configs/models, each with its file."""
    return {name: path for path in models.files() for name in models.hub_names(path)}


def _load(original: Any) -> Any:
    @functools.wraps(original)
    def from_hf_pretrained(cls: Any, path: Any, *arguments: Any, **keywords: Any) -> Any:
        other = _INSTEAD.get()
        if other is not None:
            _REPLACED_BY.append(other)
        if other is not None and other != str(path):
            notes.add(f"architecture: that of {other}, in place of {path}")
            keywords.pop("revision", None)  # of the model that is replaced
            path = other
        with found(str(path), keywords.get("revision")):
            return original(cls, path, *arguments, **keywords)

    return from_hf_pretrained


def _convert(original: Any) -> Any:
    @functools.wraps(original)
    def to_megatron_provider(self: Any, *arguments: Any, **keywords: Any) -> Any:
        # It asks for generation_config.json, which only the same hub can answer without network.
        name = str(getattr(self.hf_pretrained, "model_name_or_path", ""))
        with found(name, getattr(self, "hf_model_revision", None)):
            return original(self, *arguments, **keywords)

    return to_megatron_provider


@contextlib.contextmanager
def found(name: str, revision: Optional[str] = None) -> Iterator[None]:
    """Inside the block the model `name` is found, if it ships; only its own configuration may be loaded there."""
    file = shipped().get(name)
    if file is None or Path(name).is_dir():
        yield
        return
    own = _in_cache(name, revision)
    if own is not None:
        notes.add(f"architecture of {name}: {own}, a copy from the hub")
        yield
        return
    notes.add(f"architecture of {name}: {file.name} of the launcher (the Hugging Face cache has no copy)")
    with tempfile.TemporaryDirectory(prefix="launcher-hub-") as directory:
        hub = Path(directory) / "hub"
        commit = revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else models.SNAPSHOT
        models.write_cache(hub, name, models.model_config(file.stem), commit)
        with models.use(hub):
            yield


def snapshot(name: str, revision: Optional[str] = None) -> Optional[Path]:
    """Where the user's Hugging Face cache has files of the model `name`; None where it has not even a config.json."""
    own = _in_cache(name, revision)
    return Path(own).parent if own is not None else None


def _in_cache(name: str, revision: Optional[str]) -> Optional[str]:
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE, revision=revision)
    return found if isinstance(found, str) else None
