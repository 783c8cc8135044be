"""Sources of training text: which files there are, how they are divided into shards, and the documents of a piece."""

import contextlib
import gzip
import importlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional

from ...contract.preparation import Piece, PreparationRequest
from ..errors import UserError, first_line

_ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson"),
    "parquet": (".parquet",),
    "text": (".txt", ".text", ".txt.gz", ".md"),
}
_SAVED = ("dataset_dict.json", "state.json")
"""Files at the top of what `save_to_disk()` wrote: several splits, or one data set."""
_ROWS = 1000
"""Rows that are read at once."""
_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source in their order, and their format."""

    format: str
    files: "tuple[Path, ...]"


@dataclass(frozen=True)
class Row:
    """One document, or with `problem` a row that is none: why, and where it is."""

    text: str
    problem: str = ""
    where: str = ""


def find(request: PreparationRequest) -> SourceFiles:
    """Return the files of the request's source.

    Raises UserError where there are none, files of several formats, or options that have no effect on their format.
    """
    found = _found(request)
    without_effect = (
        ("--split", request.split is not None and found.format != "saved", "a saved data set"),
        ("--sample-by", request.sample_by != "line" and found.format != "text", "text"),
        ("--field", request.field != PreparationRequest.field and found.format == "text", "a format with fields"),
    )
    for option, given, what in without_effect:
        if given:
            raise UserError(f"it is an option of {what}, and the source is {found.format}", where=option)
    return found


def _found(request: PreparationRequest) -> SourceFiles:
    path = Path(request.source)
    if not path.exists():
        raise UserError("there is no such file or directory", where=str(path))
    if path.is_file():
        return SourceFiles(_format_of_file(path, request.format), (path,))
    if any((path / name).is_file() for name in _SAVED):
        if request.format not in (None, "saved"):
            raise UserError(f"this is a saved data set, not {request.format}", where=str(path))
        return SourceFiles("saved", (path,))
    return _directory(path, request.format)


def _format_of_file(path: Path, wanted: Optional[str]) -> str:
    if wanted == "saved":
        raise UserError("a saved data set is a directory, and this is a file", where=str(path))
    found = wanted or _by_ending(path)
    if found is None:
        raise UserError(
            "the name of this file does not say its format",
            where=str(path),
            hint=f"name it: --format {' or '.join(_ENDINGS)}",
        )
    return found


def _directory(path: Path, wanted: Optional[str]) -> SourceFiles:
    by_format: dict[str, list[Path]] = {}
    packed = list[tuple[str, Path]]()
    for file in sorted(_files_below(path, ())):
        kind, within = _by_ending(file), _by_ending(file.with_suffix(""))
        if kind is not None:
            by_format.setdefault(kind, []).append(file)
        elif within is not None and file.suffix.lower() in _PACKED:
            packed.append((within, file))
    if wanted is not None:
        by_format = {kind: files for kind, files in by_format.items() if kind == wanted}
    for kind, file in packed:
        if wanted in (None, kind):
            raise UserError(
                f"a file of {kind} that is packed with {file.suffix[1:]} cannot be read, and would be left out",
                where=str(file),
                hint="unpack it, or move it away",
            )
    if not by_format:
        endings = _ENDINGS.get(wanted or "", tuple(ending for some in _ENDINGS.values() for ending in some))
        raise UserError(
            f"this directory has no file with an ending of {', '.join(endings)}, and is not a saved data set",
            where=str(path),
        )
    if len(by_format) > 1:
        counts = ", ".join(f"{len(files)} of {kind}" for kind, files in sorted(by_format.items()))
        raise UserError(
            f"this directory has files of several formats: {counts}", where=str(path), hint="choose one: --format"
        )
    ((kind, files),) = by_format.items()
    return SourceFiles(kind, tuple(files))


def _files_below(directory: Path, above: "tuple[str, ...]") -> "Iterator[Path]":
    """Yield the files below a directory, also behind symbolic links. Hidden ones are left out.

    Raises UserError for a link of a format's name that leads nowhere, OSError for a directory that cannot be read.
    """
    here = os.path.realpath(directory)
    if here in above:  # a link that leads to a directory in which it lies
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            path = directory / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files_below(path, (*above, here))
            elif entry.is_file():
                yield path
            elif entry.is_symlink() and _by_ending(path) is not None:
                raise UserError("this symbolic link leads to no file", where=str(path))


def _by_ending(path: Path) -> Optional[str]:
    name = path.name.lower()
    return next((kind for kind, endings in _ENDINGS.items() if name.endswith(endings)), None)


def shards(source: SourceFiles, request: PreparationRequest) -> "list[list[Piece]]":
    """Return the pieces of each shard: about `request.shard_bytes` of text each, in the order of the source.

    Raises UserError for a file that cannot be read as its format, or that lacks the column.
    """
    found: list[list[Piece]] = []
    room = 0
    for file, units, unit_bytes, divisible in _parts(source, request):
        start = 0
        while start < units:
            if room <= 0:
                found.append([])
                room = request.shard_bytes
            take = units - start
            if divisible:
                take = min(take, max(1, int(room / unit_bytes)))
            found[-1].append({"file": str(file), "start": start, "end": start + take})
            room -= math.ceil(take * unit_bytes)
            start += take
    if not found:
        raise UserError("there is nothing in it", where=request.source)
    return found


def _parts(source: SourceFiles, request: PreparationRequest) -> "Iterator[tuple[Path, int, float, bool]]":
    """Yield for each file its units (bytes, row groups, rows), the bytes of one, and whether it can be divided."""
    for file in source.files:
        if source.format == "parquet":
            yield file, *_row_groups(file, request.field), True
        elif source.format == "saved":
            rows = saved(file, request.split)
            _require_text(rows.features, request.field, file)
            yield file, len(rows), max(1.0, rows.data.nbytes / max(1, len(rows.data))), True
        else:
            whole = file.name.lower().endswith(".gz") or (source.format == "text" and request.sample_by != "line")
            yield file, file.stat().st_size, 1.0, not whole


def _row_groups(file: Path, column: str) -> "tuple[int, float]":
    found = _parquet(file)
    names = found.schema_arrow.names
    if column not in names:
        _no_column(column, names, file)
    kind = str(found.schema_arrow.field(column).type)
    if kind not in ("string", "large_string", "string_view"):
        raise UserError(f"the column {column!r} is not text but {kind}", where=str(file))
    groups, number = found.metadata.num_row_groups, names.index(column)
    if len(names) != found.metadata.num_columns:  # nested columns have several below them
        return groups, max(1.0, file.stat().st_size / max(1, groups))
    sizes = [found.metadata.row_group(one).column(number).total_uncompressed_size for one in range(groups)]
    return groups, max(1.0, sum(sizes) / max(1, groups))


def _parquet(file: Path) -> Any:
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(str(file))
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these
        raise UserError(f"this is not a Parquet file: {first_line(error)}", where=str(file)) from error


def saved(path: Path, split: Optional[str]) -> Any:
    """Return the rows of a saved data set. Raises UserError where it cannot be read, or lacks the split."""
    datasets = importlib.import_module("datasets")
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise UserError(f"this is not a whole saved data set: {first_line(error)}", where=str(path)) from error
    if not isinstance(found, dict):
        if split is not None:
            raise UserError("this data set has no splits, so --split has no effect", where=str(path))
        return found
    names = list(found)
    chosen = split or (names[0] if len(names) == 1 else "train")
    if chosen not in found:
        raise UserError(
            f"this data set has no split {chosen!r}", where=str(path), hint=f"it has {', '.join(names)}: --split NAME"
        )
    return found[chosen]


def _require_text(features: Any, column: str, file: Path) -> None:
    if column not in features:
        _no_column(column, list(features), file)
    kind = getattr(features[column], "dtype", type(features[column]).__name__)
    if kind not in ("string", "large_string"):
        raise UserError(f"the column {column!r} is not text but {kind}", where=str(file))


def _no_column(column: str, names: Iterable[str], file: Path) -> None:
    raise UserError(
        f"there is no column {column!r}", where=str(file), hint=f"there are {', '.join(names)}: --field NAME"
    )


def rows(piece: Piece, kind: str, request: PreparationRequest) -> "Iterator[Row]":
    """Yield the documents of a piece, and with a `problem` the rows that are none. Blank lines are left out."""
    if kind == "parquet":
        yield from _of_parquet(piece, request.field)
    elif kind == "saved":
        yield from _of_saved(piece, request)
    elif kind == "jsonl":
        for number, line in _lines(piece):
            yield _of_json(line, request.field, piece["file"], number)
    elif request.sample_by == "line":
        for number, line in _lines(piece):
            yield _decoded(line, f"{piece['file']}, byte {number}")
    else:
        path = Path(piece["file"])
        with _open(path) as file, _whole(path):
            whole = _decoded(file.read().removeprefix(_BOM), piece["file"])
        if whole.problem or request.sample_by == "document":
            yield whole
        else:
            yield from _paragraphs(whole.text)


def _paragraphs(text: str) -> "Iterator[Row]":
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield Row("\n".join(lines))
            lines = []


def _of_parquet(piece: Piece, column: str) -> "Iterator[Row]":
    groups = range(piece["start"], piece["end"])
    file = _parquet(Path(piece["file"]))
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=list(groups), columns=[column]):
        for text in batch.column(0).to_pylist():
            yield _of_cell(text, column, f"{piece['file']}, row groups {groups.start} to {groups.stop - 1}")


def _of_saved(piece: Piece, request: PreparationRequest) -> "Iterator[Row]":
    held = saved(Path(piece["file"]), request.split)
    for start in range(piece["start"], piece["end"], _ROWS):
        texts = held[start : min(start + _ROWS, piece["end"])][request.field]
        for number, text in enumerate(texts, start):
            yield _of_cell(text, request.field, f"{piece['file']}, row {number}")


def _of_cell(text: Optional[str], column: str, where: str) -> Row:
    return Row("", f"the column {column!r} is empty (null)", where) if text is None else Row(text)


def _of_json(line: bytes, field: str, file: str, byte: int) -> Row:
    where = f"{file}, byte {byte}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row("", f"this line is not JSON: {first_line(error)}", where)
    if not isinstance(row, dict):
        return Row("", "this line is not a JSON object", where)
    if field not in row:
        return Row("", f"this line has no field {field!r}; it has {', '.join(map(repr, list(row)[:8]))}", where)
    text = row[field]
    if not isinstance(text, str):
        return Row("", f"the field {field!r} is not text but {type(text).__name__}", where)
    return Row(text)


def _decoded(line: bytes, where: str) -> Row:
    try:
        return Row(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row("", f"this is not UTF-8: {error.reason}", where)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


@contextlib.contextmanager
def _whole(path: Path) -> "Iterator[None]":
    """Raise UserError for what gzip raises for a file that was cut short or is damaged."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"this file is not whole: {first_line(error)}", where=str(path)) from error


def _lines(piece: Piece) -> "Iterator[tuple[int, bytes]]":
    """Yield the lines that begin inside the piece, without their ends, and where in the file each begins."""
    path = Path(piece["file"])
    packed = path.name.lower().endswith(".gz")
    with _whole(path), _open(path) as file:
        at = piece["start"]
        if at:
            # The line over the border belongs to the piece before.
            file.seek(at - 1)
            at += len(file.readline()) - 1
        while packed or at < piece["end"]:
            line = file.readline()
            if not line:
                return
            content = (line.removeprefix(_BOM) if at == 0 else line).rstrip(b"\r\n")
            if content.strip():
                yield at, content
            at += len(line)
