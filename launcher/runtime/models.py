"""Architectures that ship with the project (configs/models), given to Hugging Face's loaders without network.

A recipe of Bridge asks Hugging Face's hub for the configuration of its model. Here it finds it in a cache that holds
only that `config.json`, made in a private directory for as long as the recipe is being built.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

# The hub names a snapshot by its commit; any 40 hex digits are taken for one.
SNAPSHOT = "0" * 39 + "1"


def model_config(name: str) -> dict[str, Any]:
    """The published architecture `name`, a file of configs/models, without the notes (keys that start with `_`)."""
    path = _file(name)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if not key.startswith("_")}


@contextlib.contextmanager
def offline_hub(**architectures: str) -> Iterator[Path]:
    """A hub that knows only these models for the length of the block; yields its directory.

    Keywords are names of configs/models files, values the hub's names:
    `offline_hub(deepseek_v2_lite="deepseek-ai/DeepSeek-V2-Lite")`.
    """
    with tempfile.TemporaryDirectory(prefix="launcher-hub-") as directory:
        hub = Path(directory) / "hub"
        for name, hub_name in architectures.items():
            write_cache(hub, hub_name, model_config(name))
        with _use(hub):
            yield hub


def write_cache(hub: Path, hub_name: str, config: dict[str, Any]) -> None:
    """Write what huggingface_hub's cache would hold had it fetched only `config.json` of `hub_name`."""
    model = hub / ("models--" + hub_name.replace("/", "--"))
    snapshot = model / "snapshots" / SNAPSHOT
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(SNAPSHOT, encoding="utf-8")
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")


@contextlib.contextmanager
def _use(hub: Path) -> Iterator[None]:
    # Constants, not the environment: huggingface_hub reads that once, when it is imported, which may be long ago.
    from huggingface_hub import constants

    old = (constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE)
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(hub), True
    try:
        yield
    finally:
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = old


def _file(name: str) -> Path:
    here = Path(__file__).resolve()
    # In a run directory (code/models), in a checkout (configs/models), in an installed wheel
    # (launcher/share/configs/models).
    places = (
        here.parents[2] / "models",
        here.parents[2] / "configs" / "models",
        here.parents[1] / "share" / "configs" / "models",
    )
    found = next((place / f"{name}.json" for place in places if (place / f"{name}.json").is_file()), None)
    if found is None:
        raise UserError(
            f"no architecture {name!r}: there is no {name}.json in {' or '.join(str(place) for place in places)}"
        )
    return found
