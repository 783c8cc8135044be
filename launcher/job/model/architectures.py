"""Architectures that ship with the project (configs/models), provided to Hugging Face's loaders without network.

hub.py decides when: a recipe then finds the configuration of its model in a cache that holds only that `config.json`.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...contract.paths import MODELS
from ..errors import UserError

# The hub names a snapshot by its commit; its library accepts any 40 hex digits.
SNAPSHOT = "0" * 39 + "1"


def model_config(name: str) -> dict[str, Any]:
    """Return the published architecture `name`, a file of configs/models, without the notes (keys with `_`).

    Raises UserError where no such file ships.
    """
    path = _file(name)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if not key.startswith("_")}


def write_cache(hub: Path, hub_name: str, config: dict[str, Any], commit: str = SNAPSHOT) -> None:
    """Write what huggingface_hub's cache would hold if it had fetched only `config.json` of `hub_name`."""
    model = hub / ("models--" + hub_name.replace("/", "--"))
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")


@contextlib.contextmanager
def use_cache(hub: Path) -> Iterator[None]:
    """Make Hugging Face's loaders read this cache, and no network, inside the block."""
    # Constants, not the environment: huggingface_hub read that when it was imported, which may be long ago.
    from huggingface_hub import constants
    from transformers.utils import hub as copied

    wanted = {(constants, "HF_HUB_CACHE"): str(hub), (constants, "HF_HUB_OFFLINE"): True}
    # transformers keeps copies of its own until version 5.
    copies = {(copied, "TRANSFORMERS_CACHE"): str(hub), (copied, "_is_offline_mode"): True}
    wanted |= {(module, name): value for (module, name), value in copies.items() if hasattr(module, name)}
    before = [(module, name, getattr(module, name)) for module, name in wanted]
    for (module, name), value in wanted.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def files() -> tuple[Path, ...]:
    """Return all architectures that ship, sorted by the names of their files."""
    return next((found for directory in _directories() if (found := tuple(sorted(directory.glob("*.json"))))), ())


@functools.lru_cache
def hub_names(path: Path) -> tuple[str, ...]:
    """Return the names that Hugging Face's hub has for the architecture in the file `path`."""
    return tuple(json.loads(path.read_text(encoding="utf-8")).get("_hub", ()))


def _file(name: str) -> Path:
    directories = _directories()
    found = next(
        (directory / f"{name}.json" for directory in directories if (directory / f"{name}.json").is_file()), None
    )
    if found is None:
        raise UserError(
            f"no architecture {name!r}: there is no {name}.json in {' or '.join(str(one) for one in directories)}"
        )
    return found


def _directories() -> tuple[Path, ...]:
    """Return configs/models of a run directory (code/models), a checkout, and an installed wheel (launcher/share)."""
    here = Path(__file__).resolve()
    return (
        here.parents[3] / MODELS,
        here.parents[3] / "configs" / "models",
        here.parents[2] / "share" / "configs" / "models",
    )
