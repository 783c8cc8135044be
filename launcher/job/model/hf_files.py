"""The files of a Hugging Face model, read with the standard library alone: tensors, their shapes, missing files.

Format of a .safetensors file (https://github.com/huggingface/safetensors): 8 bytes with the length N of the header,
little-endian; N bytes of JSON, which gives each tensor its dtype, shape and the span of its bytes behind the header;
the bytes. So a file that was cut short is recognised without reading it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..errors import UserError

INDEX = "model.safetensors.index.json"
_HEADER_BYTES = 100 << 20
"""The longest header that the format allows."""

_AGAIN = "copy or download the model again; `hf download` checks the files that it fetches"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model: `dtype` as safetensors calls it (BF16, F32), `file` is the name of its shard."""

    dtype: str
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True)
class Weights:
    """All tensors of a directory by name, and the bytes of their files."""

    directory: Path
    tensors: Mapping[str, Tensor]
    size_bytes: int


def holds_weights(directory: Path) -> bool:
    """Return whether Bridge would read weights from `directory`: config.json, and safetensors or their index."""
    return (directory / "config.json").is_file() and ((directory / INDEX).is_file() or bool(_shards(directory)))


def missing(directory: Path) -> list[str]:
    """Return the weight files that the index, or a shard's name (-00001-of-00004), announces and that do not exist."""
    listed = _index(directory)
    found = _shards(directory)
    if listed is None:
        parts = [match for name in found if (match := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.safetensors", name))]
        named = {f"{one[1]}-{n:05d}-of-{one[2]}.safetensors" for one in parts for n in range(1, int(one[2]) + 1)}
    else:
        named = set(listed.values())
    return sorted(name for name in named if not (directory / name).is_file())


def read_weights(directory: Path) -> Weights:
    """Return what the headers say. Raises UserError for a shard that is missing, cut short or not safetensors."""
    listed, absent = _index(directory), missing(directory)
    names = sorted(set(listed.values())) if listed is not None else _shards(directory)
    if absent:
        raise UserError(
            f"weight files are missing: {len(absent)}, the first is {absent[0]}",
            where=str(directory),
            hint=_AGAIN,
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(_header(directory / name))
    lost = sorted(set(listed or ()) - tensors.keys())
    if lost:
        raise UserError(
            f"{INDEX} lists {len(lost)} tensors that their files lack; the first is {lost[0]}",
            where=str(directory),
            hint=_AGAIN,
        )
    return Weights(directory, tensors, sum((directory / name).stat().st_size for name in names))


def read_text_config(directory: Path) -> dict[str, Any]:
    """Return the language model's part of config.json, which may be the whole. Raises UserError."""
    config = read_config(directory)
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of config.json. Raises UserError."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"config.json cannot be read: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise UserError("config.json is not one JSON object", where=str(path))
    return config


def _shards(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("model*.safetensors"))


def _index(directory: Path) -> Optional[dict[str, str]]:
    path = directory / INDEX
    if not path.is_file():
        return None
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX} cannot be read: {type(error).__name__}: {error}", where=str(path)) from error


def _header(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER_BYTES, size - 8):
                raise ValueError("its first 8 bytes are not the length of a header")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        found = {
            name: Tensor(str(one["dtype"]), tuple(int(n) for n in one["shape"]), path.name)
            for name, one in entries.items()
        }
        end = max((int(one["data_offsets"][1]) for one in entries.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"the weight file {path.name} cannot be read as safetensors: {error}", where=str(path), hint=_AGAIN
        ) from error
    if size != 8 + length + end:
        raise UserError(
            f"the weight file {path.name} is incomplete: it has {size} bytes and should have {8 + length + end}",
            where=str(path),
            hint=_AGAIN,
        )
    return found
