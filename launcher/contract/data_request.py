"""Requests for data, the texts of `data=`, as plan and job both read them.

| text | meaning |
| --- | --- |
| `mock` | Megatron's mock data |
| `PREFIX`, `PREFIX,PREFIX`, `0.3,PREFIX,0.7,PREFIX` | token ids: PREFIX.bin and PREFIX.idx, with weights where given |
| `FILE.jsonl`, `DIR` with *.jsonl | samples for fine-tuning, an object in each line |
| `DIR` as Hugging Face's `datasets` has it, `hf:NAME[:SUBSET]` | a data set from a directory, or of the hub |

A blank separates as a comma does, so that Megatron-LM's own way to write a blend works: "0.3 PREFIX 0.7 PREFIX".
"""

import os
import re
from pathlib import Path
from typing import Literal, Optional

from launcher.contract.frozen import dataclass

from .values import Refused

Kind = Literal["mock", "paths", "jsonl", "hub"]

FORMS = "mock, PREFIX of .bin and .idx files, FILE.jsonl, a directory, or hf:NAME"

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?")
_SPLITS = {
    "training": ("training", "train"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""By Bridge's name of a split the names that its file may have."""

PAIRS = (
    ("prompt", "completion"),
    ("input", "output"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
)
"""Names of columns that hold a prompt and its answer; the first pair that a sample has counts."""

CONVERSATIONS = ("messages", "conversation", "conversations")
"""Names of a column that holds the turns of a conversation."""


@dataclass(frozen=True)
class DataRequest:
    """A parsed `data=`; `paths` are prefixes, the one file or directory, or the hub's name."""

    kind: Kind
    paths: tuple[str, ...] = ()
    weights: Optional[tuple[float, ...]] = None
    subset: Optional[str] = None


def parse(text: str) -> DataRequest:
    """Return the request that `text` makes. Raises Refused."""
    if text == "mock":
        return DataRequest("mock")
    if text.startswith("hf:"):
        name, _, subset = text[3:].partition(":")
        if not name:
            raise Refused(f"data={text} does not name a data set", "such as data=hf:squad or data=hf:openai/gsm8k:main")
        return DataRequest("hub", (name,), subset=subset or None)
    items = [one for one in re.split(r"[,\s]+", text) if one]
    if not items:
        raise Refused("data= is empty", f"it takes {FORMS}")
    weights = [float(one) for one in items[::2] if _NUMBER.fullmatch(one)]
    paths = items[1::2] if weights else items
    if weights and (len(weights) != len(paths) or len(items) % 2 or any(_NUMBER.fullmatch(one) for one in paths)):
        raise Refused(f"data={text}: weights and prefixes do not alternate", "such as data=0.3,/data/a,0.7,/data/b")
    if any(one.endswith((".jsonl", ".json")) for one in paths):
        if len(items) > 1:
            raise Refused(f"data={text}: only one file of samples can be given", "join them, or name their directory")
        return DataRequest("jsonl", tuple(paths))
    return DataRequest("paths", tuple(_prefix(one) for one in paths), tuple(weights) or None)


def columns(text: str) -> tuple[str, ...]:
    """Return the columns of `data_columns=`: a prompt's and its answer's, or a conversation's. Raises Refused."""
    names = tuple(one.strip() for one in text.split(","))
    if not all(names) or len(names) > 2 or len(set(names)) < len(names):
        raise Refused(
            f"data_columns={text}: it takes PROMPT,COMPLETION or the column of a conversation",
            "such as data_columns=question,answer or data_columns=messages",
        )
    return names


def is_indexed(prefix: str) -> bool:
    """Return whether Megatron's two files exist for a prefix."""
    return all(Path(f"{prefix}{ending}").is_file() for ending in (".bin", ".idx"))


def split_files(directory: Path) -> dict[str, Path]:
    """Return the *.jsonl of a directory by Bridge's names of the splits; none where there is none for training."""
    found = {}
    for split, names in _SPLITS.items():
        file = next((one for name in names if (one := directory / f"{name}.jsonl").is_file()), None)
        if file is not None:
            found[split] = file
    return found if "training" in found else {}


def anchored(text: str, directory: Path) -> str:
    """Return the request with absolute paths for what exists below `directory`; the rest stays as it was."""
    if text == "mock" or text.startswith("hf:"):
        name, colon, rest = text.removeprefix("hf:").partition(":")
        path = absolute(name, directory)
        return f"hf:{path}{colon}{rest}" if text != "mock" and path.is_dir() else text
    return re.sub(r"[^,\s]+", lambda one: _anchored(one.group(), directory), text)


def absolute(name: str, directory: Path) -> Path:
    """Return a path as seen from `directory`, without `..`; links stay, because nodes may see them elsewhere."""
    return Path(os.path.normpath(directory.absolute() / Path(name).expanduser()))


def _anchored(item: str, directory: Path) -> str:
    path = absolute(item, directory)
    there = path.exists() or is_indexed(_prefix(str(path)))
    return str(path) if there and not _NUMBER.fullmatch(item) else item


def _prefix(path: str) -> str:
    return re.sub(r"\.(bin|idx)$", "", path)
