"""A look into data files before training: which are there by split, what columns samples have, how large ids are."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...contract import data_request
from ..config import config_summary, sizes
from ..errors import UserError

_IDS_LOOKED_AT = 1_000_000
"""At each end of a file of token ids."""

_HEAD = 18
"""Bytes of an index before its counts: 9 to know it by, 8 of a version, 1 for the type of ids
(megatron/core/datasets/indexed_dataset.py of megatron-core 0.19)."""


def by_split(path: Path, kind: str, where: str) -> dict[str, list[Path]]:
    """Files by Bridge's name of the split (training, validation, test), of JSONL (`kind` lines) or of `datasets`."""
    if kind == "lines":
        files = {"training": path} if path.is_file() else data_request.split_files(path)
        return {split: [file] for split, file in files.items()}
    found = _saved(path)
    if "training" not in found:
        raise UserError(
            f"{path} has nothing to train on: no training.jsonl, no *.parquet, nothing of Hugging Face's `datasets`",
            where=where,
            hint="a directory holds training.jsonl, or *.parquet, or what save_to_disk() leaves",
        )
    return found


def columns(file: Path, where: str) -> list[str]:
    """The names of a file's columns; of JSONL those of its first line. Raises UserError."""
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
    """The largest token id at the beginning and the end of PREFIX.bin; 0 of an empty file. Raises UserError."""
    import numpy
    from megatron.core.datasets.indexed_dataset import DType

    with Path(f"{prefix}.idx").open("rb") as index:
        head = index.read(_HEAD)
    if len(head) < _HEAD or not head.startswith(b"MMIDIDX"):
        raise UserError(f"{prefix}.idx is no index of Megatron's", where=f"{prefix}.idx")
    if Path(f"{prefix}.bin").stat().st_size == 0:
        return 0
    ids = numpy.memmap(f"{prefix}.bin", dtype=DType.dtype_from_code(head[-1]), mode="r")
    return int(max(ids[:_IDS_LOOKED_AT].max(), ids[-_IDS_LOOKED_AT:].max()))


def check_token_ids(config: Any) -> None:
    """Raise UserError for files of token ids on which a run would hang, or end in a kernel of the GPU.

    `config` is a validated configuration; files that are not seen from here are passed over.
    """
    dataset = config.dataset
    prefixes = [one for one in (getattr(dataset, "blend", None) or [()])[0] if data_request.is_indexed(str(one))]
    if not prefixes:
        return
    if isinstance(dataset.split, str):
        _require_documents(prefixes, dataset.split)
    rows = config_summary.facts(config, sizes.transformer(config))["model"]["padded_vocab_size"]
    for prefix in prefixes if isinstance(rows, int) else ():
        largest = largest_id(prefix)
        if largest >= rows:
            raise UserError(
                f"{prefix} has token {largest}, and the model's embedding has {rows} rows",
                where="dataset.blend",
                hint=f"with a NullTokenizer set tokenizer.vocab_size={largest + 1} or more; else take the data's own",
            )


def _require_documents(prefixes: Iterable[str], split: str) -> None:
    """Raise UserError where a split has no document of a file: megatron-core 0.19.2 then counts epochs for ever.

    Splits are made of whole documents (`_build_megatron_dataset_splits`, blended_megatron_dataset_builder.py).
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
                    f"{prefix} has {documents} documents, and dataset.split={split} leaves none of them for {name}",
                    where="dataset.split",
                    hint="train on all: 'dataset.split=\"1,0,0\"' and validation.eval_iters=0; or give larger parts",
                )


def _documents(prefix: str) -> int:
    """The number of sequences of an index, which Megatron's own tools write one for each document."""
    with Path(f"{prefix}.idx").open("rb") as index:
        head = index.read(_HEAD + 8)
    return int.from_bytes(head[_HEAD:], "little") if head.startswith(b"MMIDIDX") else 1


def _saved(path: Path) -> dict[str, list[Path]]:
    """Arrow files of save_to_disk(), else parquet files, by split; what names no split is for training."""
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
