"""Files that a training configuration names: which of them exist, seen from the machine that submits the run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from launcher._util.user_paths import cache_home
from launcher.contract import hub
from launcher.contract.frozen import dataclass

_ITERATION = re.compile(r"iter_(\d+)")
_SECTION = re.compile(r"^([a-z_]+):")
_VALUE = re.compile(r"^  ([a-z_]+): (\d+|true|false)\s*$")
_DATA_ENDINGS = (".bin", ".idx")
_OF_HUB = ("hf_path", "tokenizer", "tokenizer_model")
"""Arguments that name a model or a tokenizer: its directory, or its name on the hub."""

_DATA_ARGUMENTS = ("data", "data_path", "data_paths", "train_data_path", "valid_data_path", "test_data_path")
_DIRECTORIES = ("dataset_path", "dataset_root", "pretrained_checkpoint")

INPUT_ARGUMENTS = frozenset({*_OF_HUB, *_DATA_ARGUMENTS, *_DIRECTORIES})
"""Arguments by whose names it is known that they name what a training reads; a recipe's own parameters among them."""

_TOKENIZER, _TOKENIZER_TYPE = "tokenizer.tokenizer_model", "tokenizer.tokenizer_type"
_PLACES = (_TOKENIZER, "dataset.dataset_root", "dataset.path", "checkpoint.pretrained_checkpoint")
_BLENDS = ("dataset.blend", "dataset.data_path")

INPUT_KEYS = frozenset({*_PLACES, *_BLENDS, _TOKENIZER_TYPE})
"""Keys of the configuration that name what a training reads."""


@dataclass(frozen=True)
class SavedModel:
    """The newest checkpoint in a directory: its iteration, and the integers and flags of its run_config.yaml."""

    directory: str
    iteration: int
    values: Mapping[str, int | bool] = field(default_factory=dict)
    """Values by key, as an override names them (`model.num_layers`); only fields directly below a section."""
    own: bool = False
    """Whether the run itself saved it and continues from it (--resume)."""


@dataclass(frozen=True)
class TrainingFiles:
    """The state of the named files. Each pair holds a key of the configuration and the path or name that it gives."""

    missing: tuple[tuple[str, str], ...] = ()
    """Paths that do not exist on this machine."""
    uncached: tuple[tuple[str, str], ...] = ()
    """Names of Hugging Face repositories that the local cache does not hold."""
    offline: bool = False
    """Whether the job's environment forbids access to the Hugging Face hub."""
    loads: SavedModel | None = None
    """The checkpoint that the run loads; None if there is none, or it cannot be seen from here."""
    forbidden: str | None = None
    """What `checkpoint.load` names although this run may not load it: a checkpoint, or a remote place."""
    named: tuple[tuple[str, str], ...] = ()
    """All paths that are named, there or not; of a name of the hub its place in the cache, where it is there."""


def check_training_files(values: Mapping[str, Any], environ: Mapping[str, str]) -> TrainingFiles:
    """Check which tokenizer and data files exist, without opening them.

    `values` holds the configuration's values by key, and arguments of the recipe by name (INPUT_ARGUMENTS).
    """
    missing, uncached, named = [], [], []
    for key, text in _paths(values):
        if _is_hub_name(key, text, values):
            cached = _cached(text, environ)
            if cached.is_dir():
                named.append((key, str(cached)))
            else:
                uncached.append((key, text))
        elif "://" not in text:
            found = _found(text)
            named += [(key, path) for path in found or (text,)]
            if not found:
                missing.append((key, text))
    return TrainingFiles(tuple(missing), tuple(uncached), hub.is_offline(environ), named=tuple(named))


def saved_model(directory: Path) -> SavedModel | None:
    """Return the newest checkpoint in `directory`, or the one that `directory` is; None if none is visible.

    Only its run_config.yaml is opened.
    """
    try:
        found = [directory, *directory.iterdir()] if directory.is_dir() else []
    except OSError:
        return None
    steps = [(int(match[1]), path) for path in found if (match := _ITERATION.fullmatch(path.name)) and path.is_dir()]
    if not steps:
        return None
    iteration, newest = max(steps)
    return SavedModel(str(newest), iteration, _values(newest / "run_config.yaml"))


def _values(path: Path) -> dict[str, int | bool]:
    """Return integers and booleans directly below a section; nothing for an unreadable file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, int | bool] = {}
    section = ""
    for line in lines:
        if (head := _SECTION.match(line)) is not None:
            section = head[1]
        elif (match := _VALUE.match(line)) is not None:
            name, text = match.groups()
            found[f"{section}.{name}"] = int(text) if text.isdigit() else text == "true"
    return found


def _paths(values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key in (*_OF_HUB, *_DIRECTORIES, *_PLACES):
        text = values.get(key)
        # Without its type the name of a tokenizer may be a file's or the hub's.
        unclear = key == _TOKENIZER and _TOKENIZER_TYPE not in values and hub.is_hub_name(text)
        if isinstance(text, str) and text and not unclear:
            yield key, text
    for key in (*_DATA_ARGUMENTS, *_BLENDS):
        for text in _strings(values.get(key)):
            yield key, text


def _strings(value: Any) -> Iterable[str]:
    """Yield the paths of a blend: `[paths, weights]`, or a list or string with weights between the paths."""
    if isinstance(value, str):
        value = value.split()
    for one in value if isinstance(value, list) else []:
        if isinstance(one, list):
            yield from _strings(one)
        elif isinstance(one, str) and not re.fullmatch(r"[0-9.eE+-]+", one):
            yield one


def _is_hub_name(key: str, text: str, values: Mapping[str, Any]) -> bool:
    """Return whether `text` is the name of a tokenizer on the hub (`owner/name`) and not a local path."""
    of_hub = values.get(_TOKENIZER_TYPE) == "HuggingFaceTokenizer"
    may_be = key in _OF_HUB or (key == _TOKENIZER and of_hub)
    return may_be and hub.is_hub_name(text)


def _cached(name: str, environ: Mapping[str, str]) -> Path:
    """Return where the local cache holds a repository of the hub, if it does."""
    home = environ.get("HF_HOME") or f"{cache_home(environ)}/huggingface"
    hub_cache = environ.get("HF_HUB_CACHE") or f"{home}/hub"
    return Path(hub_cache) / f"models--{name.replace('/', '--')}" / "snapshots"


def _found(text: str) -> tuple[str, ...]:
    """Return what exists of a path: itself, or both files of a prefix of Megatron's data; nothing where neither is."""
    path = Path(text)
    if path.exists():
        return (text,)
    both = [path.with_name(path.name + ending) for ending in _DATA_ENDINGS] if path.name else []
    return tuple(map(str, both)) if both and all(each.exists() for each in both) else ()
