"""Data files inspected before training: files by split, the columns of samples, the largest token id."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...contract import data_request
from ..config import config_summary, sizes
from ..errors import UserError

_IDS_READ = 1_000_000
"""Number of token ids that are read at each end of a file."""

_HEADER_BYTES = 18
"""Bytes of an index before its counts: a 9-byte signature, 8 bytes of version, 1 for the type of the ids.
Source: megatron/core/datasets/indexed_dataset.py of megatron-core 0.19."""


def by_split(path: Path, kind: str, where: str) -> dict[str, list[Path]]:
    """Return the files of each split (Bridge's names: training, validation, test).

    `kind` is `lines` for JSONL; any other kind is a directory that Hugging Face's `datasets` reads. Raises UserError
    where a directory has nothing to train on.
    """
    if kind == "lines":
        files = {"training": path} if path.is_file() else data_request.split_files(path)
        return {split: [file] for split, file in files.items()}
    found = _saved(path)
    if "training" not in found:
        raise UserError(
            f"{path} has nothing to train on: no training.jsonl, no *.parquet, no Arrow files of save_to_disk()",
            where=where,
            hint="name a directory with training.jsonl, with *.parquet, or one that save_to_disk() wrote",
        )
    return found


def columns(file: Path, where: str) -> list[str]:
    """Return the names of a file's columns; of a JSONL file those of its first line. Raises UserError."""
    if file.suffix in (".parquet", ".arrow"):
        return _schema(file)
    try:
        with file.open(encoding="utf-8") as lines:
            text = next((line for line in lines if line.strip()), "")
        first = json.loads(text) if text else None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} does not begin with a line of JSON: {error}", where=where) from None
    if not isinstance(first, dict):
        raise UserError(f"{file} {'does not begin with a JSON object' if text else 'is empty'}", where=where)
    return list(first)


def largest_id(prefix: str) -> int:
    """Return the largest token id at the beginning and the end of PREFIX.bin; 0 for an empty file.

    Raises UserError where PREFIX.idx is not an index that Megatron wrote.
    """
    import numpy
    from megatron.core.datasets.indexed_dataset import DType

    with Path(f"{prefix}.idx").open("rb") as index:
        head = index.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or not head.startswith(b"MMIDIDX"):
        raise UserError(f"{prefix}.idx is not a Megatron index", where=f"{prefix}.idx")
    if Path(f"{prefix}.bin").stat().st_size == 0:
        return 0
    ids = numpy.memmap(f"{prefix}.bin", dtype=DType.dtype_from_code(head[-1]), mode="r")
    return int(max(ids[:_IDS_READ].max(), ids[-_IDS_READ:].max()))


def check_token_ids(config: Any) -> None:
    """Refuse files of token ids on which a run would hang or fail in a GPU kernel. Raises UserError.

    `config` is a validated configuration; files that this machine does not see are skipped.
    """
    dataset = config.dataset
    prefixes = [one for one in (getattr(dataset, "blend", None) or [()])[0] if data_request.is_indexed(str(one))]
    if not prefixes:
        return
    if isinstance(dataset.split, str):
        _require_documents(prefixes, dataset.split)
    rows = config_summary.summarize(config, sizes.transformer(config))["model"]["padded_vocab_size"]
    for prefix in prefixes if isinstance(rows, int) else ():
        largest = largest_id(prefix)
        if largest >= rows:
            raise UserError(
                f"{prefix} has token id {largest}, but the model's embedding has only {rows} rows",
                where="dataset.blend",
                hint=f"with a NullTokenizer set tokenizer.vocab_size={largest + 1} or more; else use that of the data",
            )


def _require_documents(prefixes: Iterable[str], split: str) -> None:
    """Refuse a split that gets no document of a file: megatron-core 0.19.2 would count epochs endlessly.

    Splits consist of whole documents (`_build_megatron_dataset_splits` in blended_megatron_dataset_builder.py). Raises
    UserError.
    """
    parts = [float(one) for one in split.split(",")]
    bounds = [sum(parts[:number]) / sum(parts) for number in range(len(parts) + 1)]
    for prefix in prefixes:
        documents = _documents(prefix)
        edges = [round(bound * documents) for bound in bounds]
        for number, part in enumerate(parts):
            if part and edges[number] == edges[number + 1]:
                name = ("training", "validation", "test")[number]
                raise UserError(
                    f"{prefix} has {documents} documents, and dataset.split={split} leaves none for {name}",
                    where="dataset.split",
                    hint="train on all: 'dataset.split=\"1,0,0\"' validation.eval_iters=0; or make that part larger",
                )


def _documents(prefix: str) -> int:
    """Return the number of sequences in an index; Megatron's own tools write one for each document."""
    with Path(f"{prefix}.idx").open("rb") as index:
        head = index.read(_HEADER_BYTES + 8)
    return int.from_bytes(head[_HEADER_BYTES:], "little") if head.startswith(b"MMIDIDX") else 1


def _saved(path: Path) -> dict[str, list[Path]]:
    """Return the Arrow files of save_to_disk(), else parquet files, by split; files without a split's name train."""
    found: dict[str, list[Path]] = {}
    for form in ("arrow", "parquet"):
        for file in sorted(path.rglob(f"*.{form}")):
            words = {*file.relative_to(path).parent.parts, file.name.split("-")[0].split(".")[0]}
            split = (
                "validation" if words & {"validation", "valid", "dev"} else "test" if "test" in words else "training"
            )
            found.setdefault(split, []).append(file)
        if found:
            break
    return found


def _schema(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        parquet = importlib.import_module("pyarrow.parquet")
        return list(parquet.read_schema(file).names)
    pyarrow = importlib.import_module("pyarrow")
    with pyarrow.memory_map(str(file)) as source:
        return list(pyarrow.ipc.open_stream(source).schema.names)
