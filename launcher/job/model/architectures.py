"""Architectures that ship with the project (configs/models), given to Hugging Face's loaders without network.

hub.py decides when: a recipe then finds the configuration of its model in a cache that holds only that `config.json`.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError

# The hub names a snapshot by its commit; any 40 hex digits are taken for one.
SNAPSHOT = "0" * 39 + "1"


def model_config(name: str) -> dict[str, Any]:
    """The published architecture `name`, a file of configs/models, without the notes (keys that start with `_`)."""
    path = _file(name)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if not key.startswith("_")}


def write_cache(hub: Path, hub_name: str, config: dict[str, Any], commit: str = SNAPSHOT) -> None:
    """Write what huggingface_hub's cache would hold had it fetched only `config.json` of `hub_name`."""
    model = hub / ("models--" + hub_name.replace("/", "--"))
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")


@contextlib.contextmanager
def use(hub: Path) -> Iterator[None]:
    """Inside the block Hugging Face's loaders read this cache and no network."""
    # Constants, not the environment: huggingface_hub reads that once, when it is imported, which may be long ago.
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
    """All architectures that ship, by their file's name."""
    return next((found for place in _places() if (found := tuple(sorted(place.glob("*.json"))))), ())


@functools.lru_cache
def hub_names(path: Path) -> tuple[str, ...]:
    """The names that Hugging Face's hub has for the architecture in the file `path`."""
    return tuple(json.loads(path.read_text(encoding="utf-8")).get("_hub", ()))


def _file(name: str) -> Path:
    places = _places()
    found = next((place / f"{name}.json" for place in places if (place / f"{name}.json").is_file()), None)
    if found is None:
        raise UserError(
            f"no architecture {name!r}: there is no {name}.json in {' or '.join(str(place) for place in places)}"
        )
    return found


def _places() -> tuple[Path, ...]:
    """In a run directory (code/models), in a checkout (configs/models), in an installed wheel (launcher/share)."""
    here = Path(__file__).resolve()
    return (
        here.parents[3] / "models",
        here.parents[3] / "configs" / "models",
        here.parents[2] / "share" / "configs" / "models",
    )
