"""`--data`, inspecting: what Megatron's files of token ids hold."""

from pathlib import Path
from typing import Any, Optional

from ...contract import preparation
from ...contract.data_request import is_indexed
from ...contract.events import EventWriter
from ...contract.files import read_object
from ...contract.preparation import InspectionRequest
from ..errors import UserError
from . import indexed_files, tokenizing
from .preparing import checksum

_SHOWN_IDS = 60
"""Ids of a sample that are shown as text."""
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def inspect(request: InspectionRequest, events: EventWriter) -> "dict[str, Any]":
    """Return counts, lengths, ids and samples of files; `ok` says whether nothing is wrong. Raises UserError."""
    path = Path(request.path)
    manifest = read_object(path / preparation.MANIFEST) if path.is_dir() else None
    prefixes = _prefixes(path, manifest)
    tokenizer = _tokenizer(request, manifest)
    found: dict[str, Any] = {"path": str(path), "files": []}
    problems = _changed(path, manifest, events) if request.verify else []
    read = [indexed_files.read(prefix) for prefix in prefixes]
    total = sum(one.ids.nbytes for one in read)
    events.stage("reading the ids")
    smallest, largest, ends, beyond, done = None, None, 0, 0, 0
    for one in read:
        for ids in one.pieces():
            least, most = int(ids.min()), int(ids.max())
            smallest = least if smallest is None else min(smallest, least)
            largest = most if largest is None else max(largest, most)
            if tokenizer is not None:
                beyond += int(((ids < 0) | (ids >= tokenizer.vocabulary)).sum())
                ends += int((ids == tokenizer.eod).sum()) if tokenizer.eod is not None else 0
            done += ids.nbytes
            events.progress(done, total, "B")
    lengths = _lengths(read)
    counts = {
        "documents": sum(len(one.borders) - 1 for one in read),
        "sequences": sum(len(one.lengths) for one in read),
        "tokens": sum(len(one.ids) for one in read),
    }
    problems += _differences(counts, manifest)
    if beyond:
        problems.append(f"{beyond} ids are not in the vocabulary of {tokenizer.vocabulary if tokenizer else 0}")
    return {
        **found,
        **counts,
        "files": [{"prefix": one.prefix, "dtype": one.dtype, "tokens": len(one.ids)} for one in read],
        "lengths": lengths,
        "ids": {"smallest": smallest, "largest": largest, "beyond_vocabulary": beyond if tokenizer else None},
        "tokenizer": _about(tokenizer, ends),
        "samples": _samples(read, tokenizer, request.samples),
        "checksums": "compared" if request.verify else "not compared",
        "problems": problems,
        "ok": not problems,
    }


def _prefixes(path: Path, manifest: "Optional[dict[str, Any]]") -> "list[str]":
    if manifest is not None:
        return [str(path / name[:-4]) for name in manifest.get("files", {}) if name.endswith(".bin")]
    if path.is_dir():
        begun = (path / preparation.PLAN).is_file()
        raise UserError(
            "this preparation is not finished" if begun else "this directory was not made by `launcher data prepare`",
            where=str(path),
            hint="the command that began it makes what is missing" if begun else "name a PREFIX of .bin and .idx files",
        )
    prefix = str(path.with_suffix("")) if path.suffix in (".bin", ".idx") else str(path)
    if not is_indexed(prefix):
        raise UserError(f"there is neither such a directory nor {prefix}.bin with {prefix}.idx", where=str(path))
    return [prefix]


def _tokenizer(request: InspectionRequest, manifest: "Optional[dict[str, Any]]") -> Optional[tokenizing.Tokenizer]:
    if request.tokenizer is not None:
        return tokenizing.load(Path(request.tokenizer))
    named = (manifest or {}).get("tokenizer", {})
    if not named or not Path(str(named.get("path"))).is_dir():
        return None
    if tokenizing.digest(Path(named["path"])) != named["sha256"]:
        return None  # its files have changed: what it would decode is not what was encoded
    return tokenizing.load(Path(named["path"]))


def _changed(path: Path, manifest: "Optional[dict[str, Any]]", events: EventWriter) -> "list[str]":
    """Return a sentence for each file that is not as the manifest has it."""
    if manifest is None:
        raise UserError("there is no manifest to compare checksums with", where=str(path), hint="leave --verify out")
    events.stage("comparing checksums")
    found = []
    for name, file in manifest["files"].items():
        if not (path / name).is_file():
            found.append(f"{name} is missing")
        elif checksum(path / name) != file["sha256"]:
            found.append(f"{name} has other bytes than its manifest says")
    return found


def _differences(counts: "dict[str, int]", manifest: "Optional[dict[str, Any]]") -> "list[str]":
    if manifest is None:
        return []
    return [
        f"there are {count} {name}, and the manifest says {manifest[name]}"
        for name, count in counts.items()
        if manifest.get(name) != count
    ]


def _lengths(read: "list[indexed_files.IndexedFile]") -> "dict[str, Any]":
    import numpy

    found = numpy.concatenate([one.document_lengths() for one in read])
    if not len(found):
        return {"histogram": [0] * preparation.BUCKETS}
    ordered = numpy.sort(found)
    values = {name: int(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for name, share in _QUANTILES}
    counts = numpy.bincount(
        numpy.minimum(numpy.frexp(found.astype(numpy.float64))[1], preparation.BUCKETS - 1),
        minlength=preparation.BUCKETS,
    )
    return {
        "shortest": int(ordered[0]),
        **values,
        "longest": int(ordered[-1]),
        "mean": round(float(found.mean()), 1),
        "histogram": [int(one) for one in counts],
    }


def _about(tokenizer: Optional[tokenizing.Tokenizer], ends: int) -> "Optional[dict[str, Any]]":
    if tokenizer is None:
        return None
    return {"path": tokenizer.path, "vocabulary": tokenizer.vocabulary, "eod": tokenizer.eod, "eod_count": ends}


def _samples(
    read: "list[indexed_files.IndexedFile]", tokenizer: Optional[tokenizing.Tokenizer], count: int
) -> "list[dict[str, Any]]":
    """Return the beginnings of documents, taken at equal distances."""
    every = [(one, number) for one in read for number in _spread(len(one.borders) - 1, count)][:count]
    found = []
    for one, number in every:
        ids = one.document(number, _SHOWN_IDS)
        text = tokenizer.decode(ids) if tokenizer is not None else None
        found.append({"prefix": one.prefix, "document": number, "ids": ids, "text": text})
    return found


def _spread(documents: int, count: int) -> "list[int]":
    return sorted({number * documents // count for number in range(min(count, documents))}) if count else []
