"""The preparation of training data: its request, and the files of its directory.

`launcher data prepare` turns text into Megatron's files of token ids, piece by piece:

    OUT/prepare.json        what is prepared: source, tokenizer, options, the pieces of each shard
    OUT/shards/00000.bin, .idx, and .json, the shard's manifest, which is written last
    OUT/data.bin, data.idx  all shards in one, unless they are left apart; then OUT/blend.txt names them with weights
    OUT/manifest.json       counts and checksums of the whole, written last
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, TypedDict

from .files import read_object
from .validation import problems

PLAN = "prepare.json"
MANIFEST = "manifest.json"
SHARDS = "shards"
MERGED = "data"
"""Name of the merged files without their endings, the PREFIX of `data=OUT/data`."""
BLEND = "blend.txt"
"""One line that `data=` takes: weights by tokens, and prefixes."""
VERSION = 1

FORMATS = ("jsonl", "parquet", "text", "saved")
"""JSON lines, Parquet, plain text, and what `save_to_disk()` of Hugging Face's datasets wrote."""
SAMPLE_BY = ("line", "paragraph", "document")
"""What is one document of a text file: a line, what blank lines separate, or the whole file."""
BAD_ROWS = ("refuse", "skip")
SHARD_BYTES = 256 << 20

BUCKETS = 32
"""Buckets of a histogram of lengths: bucket K counts documents of 2**(K-1) to 2**K - 1 tokens, bucket 0 empty ones."""


@dataclass(frozen=True)
class PreparationRequest:
    """What to prepare. All paths are absolute."""

    source: str
    """A file, or a directory of files of one format."""
    target: str
    """The directory to make, or one in which the same request was begun."""
    tokenizer: str
    """A directory with the files of a Hugging Face tokenizer."""
    format: Optional[str] = None
    """One of FORMATS; None for what the names of the files say."""
    field: str = "text"
    """The field or column that holds a document."""
    split: Optional[str] = None
    """The split of a saved data set; None where it has only one, or for `train`."""
    sample_by: str = "line"
    """One of SAMPLE_BY."""
    eod: bool = True
    """Whether to end each document with the tokenizer's end-of-sequence token."""
    special_tokens: bool = True
    """Whether the tokenizer adds its own special tokens, as one for the beginning."""
    bad_rows: str = "refuse"
    """One of BAD_ROWS: what to do about a row that is broken or lacks the field."""
    shard_bytes: int = SHARD_BYTES
    merge: bool = True
    processes: int = 1
    """How many shards are worked on at once."""
    part: int = 0
    parts: int = 1
    """Of so many tasks this one works on the shards whose number divided by `parts` leaves `part`."""
    work: bool = True
    """Whether to make shards."""
    finish: bool = True
    """Whether to join what the shards hold, once all are whole."""

    def to_json(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps({"action": "prepare", **asdict(self)})


@dataclass(frozen=True)
class InspectionRequest:
    """What to look at. All paths are absolute."""

    path: str
    """A directory that was prepared, or a prefix of .bin and .idx files."""
    tokenizer: Optional[str] = None
    """None for the one that the manifest names."""
    samples: int = 2
    """Number of documents of which the beginning is shown as text."""
    verify: bool = False
    """Whether to compare checksums with the manifest."""

    def to_json(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps({"action": "inspect", **asdict(self)})


class ShardManifest(TypedDict):
    """What one shard holds; the last file of a shard that is written."""

    version: int
    number: int
    documents: int
    sequences: int
    """Documents that are not empty: an empty one has no sequence."""
    tokens: int
    skipped: int
    """Rows that were left out because they are broken."""
    source_bytes: int
    """Bytes of text in UTF-8."""
    largest_id: int
    lengths: "list[int]"
    """Histogram of the documents' lengths in BUCKETS buckets."""
    sizes: "dict[str, int]"
    """Bytes of the .bin and the .idx file."""
    sha256: "dict[str, str]"


class Piece(TypedDict):
    """A part of one source file: `start` up to `end` in bytes, row groups or rows, by the format."""

    file: str
    start: int
    end: int


class PreparationPlan(TypedDict):
    """What is prepared, decided once; a second call for the same directory has to agree with it."""

    version: int
    request: "dict[str, Any]"
    """The options that decide the result."""
    format: str
    tokenizer: "dict[str, Any]"
    """Path, sha256 over its files, size of the vocabulary, id of the end-of-document token."""
    dtype: str
    """Type of the ids: uint16 or int32."""
    files: "list[dict[str, Any]]"
    """Source files: path, bytes, time of the last change in ns."""
    shards: "list[list[Piece]]"


DECIDING = ("source", "format", "field", "split", "sample_by", "eod", "special_tokens", "bad_rows", "shard_bytes")
"""Fields of a request that decide what is written."""


def deciding(request: PreparationRequest) -> "dict[str, Any]":
    """Return the options of a request that decide what is written, by name."""
    return {name: getattr(request, name) for name in DECIDING}


def parse(text: str) -> "PreparationRequest | InspectionRequest":
    """Return the request in `text`. Raises ValueError or TypeError for anything else."""
    values = json.loads(text)
    action = values.pop("action")
    if action == "inspect":
        return InspectionRequest(**values)
    request = PreparationRequest(**values)
    known = request.sample_by in SAMPLE_BY and request.bad_rows in BAD_ROWS and request.format in (None, *FORMATS)
    numbers = (request.shard_bytes, request.processes, request.parts)
    if action != "prepare" or not known or min(numbers) < 1 or not 0 <= request.part < request.parts:
        raise ValueError(text)
    return request


def shard_prefix(target: Path, number: int) -> Path:
    """Return the path of a shard's files without their endings."""
    return target / SHARDS / f"{number:05d}"


def read_plan(target: Path) -> Optional[PreparationPlan]:
    """Return the plan of a directory; None where there is none, or not a whole one."""
    found = read_object(target / PLAN)
    if found is None or any(problems(found, PreparationPlan, unknown_keys=True)) or found["version"] != VERSION:
        return None
    plan: PreparationPlan = found  # type: ignore[assignment]
    return plan


def shard_manifest(target: Path, number: int) -> Optional[ShardManifest]:
    """Return the manifest of a shard that is whole; None where a file is missing or has another size."""
    prefix = shard_prefix(target, number)
    found = read_object(prefix.with_suffix(".json"))
    if found is None or any(problems(found, ShardManifest, unknown_keys=True)) or found["version"] != VERSION:
        return None
    manifest: ShardManifest = found  # type: ignore[assignment]
    for ending, size in manifest["sizes"].items():
        try:
            if prefix.with_suffix(f".{ending}").stat().st_size != size:
                return None
        except OSError:  # it is missing, so the shard is not whole
            return None
    return manifest


def missing_shards(target: Path, plan: PreparationPlan) -> "list[int]":
    """Return the numbers of the shards that are not whole."""
    return [number for number in range(len(plan["shards"])) if shard_manifest(target, number) is None]


def bucket(tokens: int) -> int:
    """Return the bucket of a document's length in a histogram."""
    return min(tokens.bit_length(), BUCKETS - 1)
