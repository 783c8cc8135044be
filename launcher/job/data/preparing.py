"""`--data`, preparing: text becomes Megatron's files of token ids, shard by shard.

Each shard is made by a process of its own, forked after the libraries are loaded. Its files get their names once they
are whole, the manifest last, so that a killed process leaves nothing that counts and the next call makes what is
missing. Two processes that make the same shard write the same bytes, each under a hidden name of its own.
"""

import contextlib
import hashlib
import importlib
import os
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from ...contract import preparation
from ...contract.events import EventWriter
from ...contract.files import read_object, write_json, write_text
from ...contract.preparation import PreparationPlan, PreparationRequest, ShardManifest
from ...contract.process import ProcessIdentity
from ..errors import TransientError, UserError
from . import forking, source_files, tokenizing

_BATCH = 256
"""Documents that the tokenizer gets at once."""
_BATCH_BYTES = 4 << 20
"""Text that the tokenizer gets at once, unless one document alone is longer."""
_ATTEMPTS = 3
"""How often a shard is begun whose process dies."""
_COPY = 8 << 20


def prepare(request: PreparationRequest, events: EventWriter) -> "dict[str, Any]":
    """Make the shards of this task that are missing, and at the end join them; return what there is.

    Raises UserError for a request that cannot be carried out, TransientError for a shard whose bytes have changed.
    """
    target = Path(request.target)
    _require_target(target)
    done = _finished(target)
    tokenizer = tokenizing.load(Path(request.tokenizer))
    if request.eod and tokenizer.eod is None:
        raise UserError(
            "this tokenizer has no token for the end of a document",
            where=f"--tokenizer {request.tokenizer}",
            hint="leave it out with --no-eod, or set eos_token in tokenizer_config.json",
        )
    plan = _plan(request, tokenizer, events)
    if done is not None:
        if done["merged"] != request.merge:
            raise UserError(
                f"this directory is whole, with its shards {'joined' if done['merged'] else 'apart'}",
                where=request.target,
                hint="choose another directory for the other form: what trains on this one needs its files",
            )
        _remove_joined(target, done)
        return {**_result(target, done), "made": 0, "kept": len(plan["shards"])}
    missing = preparation.missing_shards(target, plan)
    wanted = [number for number in missing if number % request.parts == request.part]
    if request.work:
        for directory in (target, target / preparation.SHARDS):
            _remove_leftovers(directory)
        _make_shards(wanted, plan, request, tokenizer, events)
    made = {"made": len(wanted) if request.work else 0, "kept": len(plan["shards"]) - len(missing)}
    if not request.finish:
        return {**made, "target": str(target)}
    return {**_result(target, _finish(request, plan, events)), **made}


def _require_target(target: Path) -> None:
    if any(sign.isspace() or sign == "," for sign in str(target)):
        raise UserError(
            "a path with blanks or commas cannot be named in data=", where=str(target), hint="choose another directory"
        )
    if target.exists() and not target.is_dir():
        raise UserError("this is not a directory", where=str(target))
    if (
        target.is_dir()
        and preparation.read_plan(target) is None
        # Another task may be about to write the plan, or was killed then: hidden files alone are not a user's.
        and any(not path.name.startswith(".") for path in target.iterdir())
        and preparation.read_plan(target) is None
    ):
        raise UserError(
            "this directory is not empty, and no preparation was begun in it",
            where=str(target),
            hint="choose another directory",
        )


def _finished(target: Path) -> "Optional[dict[str, Any]]":
    """Return the manifest of a directory that is whole; None for any other."""
    found = read_object(target / preparation.MANIFEST)
    if found is None or found.get("version") != preparation.VERSION:
        return None
    try:
        whole = all((target / name).stat().st_size == file["bytes"] for name, file in found["files"].items())
    except (OSError, KeyError, TypeError, AttributeError):  # a file is missing, or this is another file
        return None
    return found if whole else None


# --- the plan ---------------------------------------------------------------------------------------------------------


def _plan(request: PreparationRequest, tokenizer: tokenizing.Tokenizer, events: EventWriter) -> PreparationPlan:
    """Return the plan of the directory, or make one. Raises UserError where it was made for another request."""
    target = Path(request.target)
    found = preparation.read_plan(target)
    if found is not None:
        _require_same(found, request, tokenizer)
        return found
    events.stage("looking at the source")
    source = source_files.find(request)
    pieces = source_files.shards(source, request)
    plan: PreparationPlan = {
        "version": preparation.VERSION,
        "request": preparation.deciding(request),
        "format": source.format,
        "tokenizer": {
            "path": tokenizer.path,
            "sha256": tokenizer.sha256,
            "vocabulary": tokenizer.vocabulary,
            "eod": tokenizer.eod,
        },
        "dtype": _dtype(tokenizer),
        "files": [_seen(file) for file in source.files],
        "shards": pieces,
    }
    if not _begun(target, plan):
        # Another process was faster: what it has begun counts, and it may have been asked for something else.
        return _plan(request, tokenizer, events)
    events.line(f"{len(source.files)} file(s) of {source.format}, {len(pieces)} shard(s)")
    return plan


def _begun(target: Path, plan: PreparationPlan) -> bool:
    """Write the plan unless the directory has one; return whether it was written."""
    target.mkdir(parents=True, exist_ok=True)
    path = target / preparation.PLAN
    hidden = Path(f"{_hidden(target / 'prepare')}.json")
    write_json(hidden, plan)
    try:
        path.hardlink_to(hidden)
    except FileExistsError:
        if preparation.read_plan(target) is None:
            raise UserError("this is not a plan of this release", where=str(path)) from None
        return False
    except OSError:  # a file system without hard links: the last one counts
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    return True


def _seen(path: Path) -> "dict[str, Any]":
    """Return what shows that a file has changed, or any file of a saved data set."""
    found = [path.stat()]
    if path.is_dir():
        found = [file.stat() for file in path.rglob("*") if file.is_file()]
    changed = max((status.st_mtime_ns for status in found), default=0)
    return {"path": str(path), "bytes": sum(status.st_size for status in found), "changed_ns": changed}


def _dtype(tokenizer: tokenizing.Tokenizer) -> str:
    """Return the type of the ids that Megatron-Core chooses for so many tokens; the larger one where an id needs it."""
    return str(_megatron().DType.optimal_dtype(max(tokenizer.size, tokenizer.vocabulary)).__name__)


def _megatron() -> Any:
    """Return Megatron-Core's module of these files."""
    from .. import cpu

    cpu.allow_import()
    return importlib.import_module("megatron.core.datasets.indexed_dataset")


def _require_same(plan: PreparationPlan, request: PreparationRequest, tokenizer: tokenizing.Tokenizer) -> None:
    held, asked = plan["request"], preparation.deciding(request)
    different = [name for name in asked if held.get(name) != asked[name]]
    if different:
        name = different[0]
        raise UserError(
            f"this directory was begun with {name}={held.get(name)!r}, and now {name}={asked[name]!r} is asked for",
            where=request.target,
            hint="ask for the same, or choose another directory",
        )
    if plan["tokenizer"]["sha256"] != tokenizer.sha256:
        raise UserError(
            f"this directory was begun with another tokenizer ({plan['tokenizer']['path']}), or its files have changed",
            where=request.target,
            hint="use the same tokenizer, or choose another directory",
        )
    for file in plan["files"]:
        _require_unchanged(file)
    known, there = [file["path"] for file in plan["files"]], [str(file) for file in source_files.find(request).files]
    if there != known:
        more = next((name for name in there if name not in set(known)), there[0])
        raise UserError(
            f"the source has {len(there)} files, and had {len(known)} when this preparation was begun",
            where=more,
            hint="remove the directory that was begun, or choose another one",
        )


def _require_unchanged(file: "dict[str, Any]") -> None:
    try:
        now = _seen(Path(file["path"]))
    except OSError as error:
        raise UserError(
            f"the source is not there any more: {(error.strerror or '').lower()}", where=file["path"]
        ) from None
    if now != file:
        raise UserError(
            "the source has changed since this preparation was begun",
            where=file["path"],
            hint="remove the directory that was begun, or choose another one",
        )


# --- shards -----------------------------------------------------------------------------------------------------------


def _make_shards(
    wanted: "list[int]",
    plan: PreparationPlan,
    request: PreparationRequest,
    tokenizer: tokenizing.Tokenizer,
    events: EventWriter,
) -> None:
    if not wanted:
        return
    _megatron()  # loaded once, before the processes are forked
    events.stage("tokenizing")
    died: Counter[int] = Counter()

    def work(number: int, advance: forking.Advance) -> None:
        _make_shard(number, plan, request, tokenizer, advance)

    def again(number: int, how: str) -> bool:
        died[number] += 1
        if died[number] >= _ATTEMPTS:
            return False
        events.line(f"the process of shard {number} ended with {how}; it is begun once more")
        return True

    total = sum(_source_bytes(plan, number) for number in wanted)
    forking.each(wanted, work, request.processes, lambda done: events.progress(min(done, total), total, "B"), again)
    events.progress(total, total, "B")


def _source_bytes(plan: PreparationPlan, number: int) -> int:
    """Return about how many bytes of the source a shard reads."""
    pieces = plan["shards"][number]
    if plan["format"] in ("jsonl", "text"):
        return sum(piece["end"] - piece["start"] for piece in pieces)
    return int(plan["request"]["shard_bytes"])


def _make_shard(
    number: int,
    plan: PreparationPlan,
    request: PreparationRequest,
    tokenizer: tokenizing.Tokenizer,
    advance: forking.Advance,
) -> None:
    """Write one shard and its manifest. Raises UserError for a row that is not a document."""
    import numpy

    _require_pieces_unchanged(plan, number)
    final = preparation.shard_prefix(Path(request.target), number)
    final.parent.mkdir(exist_ok=True)
    hidden = _hidden(final)
    counted: ShardManifest = {
        "version": preparation.VERSION,
        "number": number,
        "documents": 0,
        "sequences": 0,
        "tokens": 0,
        "skipped": 0,
        "source_bytes": 0,
        "largest_id": 0,
        "lengths": [0] * preparation.BUCKETS,
        "sizes": {},
        "sha256": {},
    }
    with _removed_on_error(hidden):
        builder = _megatron().IndexedDatasetBuilder(f"{hidden}.bin", dtype=getattr(numpy, plan["dtype"]))
        end = [tokenizer.eod] if request.eod and tokenizer.eod is not None else []
        for texts in _batches(plan, number, request, counted):
            for ids in tokenizer.encode(texts, special_tokens=request.special_tokens):
                document = [*ids, *end] if ids else []
                builder.add_document(document, [len(document)] if document else [])
                _count(counted, document)
            advance(counted["source_bytes"])
        builder.finalize(f"{hidden}.idx")
        for ending in ("bin", "idx"):
            path = Path(f"{hidden}.{ending}")
            counted["sizes"][ending], counted["sha256"][ending] = path.stat().st_size, checksum(path)
        if counted["sizes"]["bin"] != counted["tokens"] * numpy.dtype(plan["dtype"]).itemsize:
            raise OSError(f"shard {number}: the file is not as long as what was written")
        _require_pieces_unchanged(plan, number)  # nor while it was read
        for ending in ("bin", "idx"):
            Path(f"{hidden}.{ending}").replace(f"{final}.{ending}")
    write_json(final.with_suffix(".json"), counted)


def _require_pieces_unchanged(plan: PreparationPlan, number: int) -> None:
    known = {file["path"]: file for file in plan["files"]}
    for path in {piece["file"] for piece in plan["shards"][number]}:
        _require_unchanged(known[path])


def _batches(
    plan: PreparationPlan, number: int, request: PreparationRequest, counted: ShardManifest
) -> "Iterator[list[str]]":
    """Yield the documents of a shard, some at once, and count what is read."""
    texts: list[str] = []
    size = 0
    for piece in plan["shards"][number]:
        for row in source_files.rows(piece, plan["format"], request):
            length, problem = _length(row)
            if problem and request.bad_rows == "refuse":
                raise UserError(problem, where=row.where or piece["file"], hint="--bad-rows skip leaves such rows out")
            if problem:
                counted["skipped"] += 1
                continue
            counted["documents"] += 1
            counted["source_bytes"] += length
            texts.append(row.text)
            size += length
            if len(texts) >= _BATCH or size >= _BATCH_BYTES:
                yield texts
                texts, size = [], 0
    if texts:
        yield texts


def _length(row: source_files.Row) -> "tuple[int, str]":
    """Return the bytes of a document, and what is wrong with it."""
    if row.problem:
        return 0, row.problem
    try:
        return len(row.text.encode()), ""
    except UnicodeEncodeError:
        return 0, "this text has half of a surrogate pair, which UTF-8 cannot hold"


def _count(counted: ShardManifest, document: "list[int]") -> None:
    counted["tokens"] += len(document)
    counted["lengths"][preparation.bucket(len(document))] += 1
    if document:
        counted["sequences"] += 1
        counted["largest_id"] = max(counted["largest_id"], *document)


def _hidden(path: Path) -> Path:
    """Return a name of this process beside `path`."""
    return path.with_name(f".{path.name}.{ProcessIdentity.of_this_process().short()}.partial")


@contextlib.contextmanager
def _removed_on_error(hidden: Path) -> "Iterator[None]":
    try:
        yield
    except BaseException:
        for ending in ("bin", "idx"):
            Path(f"{hidden}.{ending}").unlink(missing_ok=True)
        raise


def _remove_leftovers(directory: Path) -> None:
    """Remove the hidden files of processes of this machine that have ended."""
    for path in directory.glob(".*.partial.*"):
        owner = ProcessIdentity.from_short(path.name.split(".")[2])
        if owner is not None and owner.has_ended():
            path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the sha256 of a file as the disk has it, after it was written through."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(_COPY):
            found.update(piece)
    return found.hexdigest()


# --- the whole --------------------------------------------------------------------------------------------------------


def _finish(request: PreparationRequest, plan: PreparationPlan, events: EventWriter) -> "dict[str, Any]":
    """Join the shards, or write the line that names them, and the manifest. Return the manifest."""
    target = Path(request.target)
    try:
        return _joined(target, request, plan, events)
    except (TransientError, OSError):
        # Another process may have joined and removed the shards meanwhile.
        if (done := _finished(target)) is None or done["merged"] != request.merge:
            raise
        _remove_joined(target, done)  # those that were made since then
        return done


def _joined(target: Path, request: PreparationRequest, plan: PreparationPlan, events: EventWriter) -> "dict[str, Any]":
    shards = _whole_shards(target, plan)
    totals = {
        name: sum(shard[name] for shard in shards)
        for name in ("documents", "sequences", "tokens", "skipped", "source_bytes")
    }
    if not totals["tokens"]:
        raise UserError(
            f"there is not one token in it: {totals['documents']} documents, {totals['skipped']} rows left out",
            where=request.source,
        )
    files = _merged(target, plan, shards, events) if request.merge else _apart(target, shards)
    manifest = {
        "version": preparation.VERSION,
        **totals,
        "lengths": [sum(counts) for counts in zip(*(shard["lengths"] for shard in shards), strict=True)],
        "largest_id": max(shard["largest_id"] for shard in shards),
        "shards": len(shards),
        "merged": request.merge,
        "dtype": plan["dtype"],
        "tokenizer": plan["tokenizer"],
        "request": plan["request"],
        "files": files,
        "versions": {name: version(name) for name in ("megatron-core", "transformers", "tokenizers")},
    }
    write_json(target / preparation.MANIFEST, manifest)
    _remove_joined(target, manifest)
    return manifest


def _remove_joined(target: Path, manifest: "dict[str, Any]") -> None:
    """Remove the ids of shards that the whole has."""
    for number in range(manifest["shards"]) if manifest["merged"] else ():
        for ending in ("bin", "idx"):
            preparation.shard_prefix(target, number).with_suffix(f".{ending}").unlink(missing_ok=True)


def _whole_shards(target: Path, plan: PreparationPlan) -> "list[ShardManifest]":
    found = [preparation.shard_manifest(target, number) for number in range(len(plan["shards"]))]
    missing = [number for number, manifest in enumerate(found) if manifest is None]
    if missing:
        raise TransientError(
            f"{len(missing)} of {len(found)} shards are missing, the first is {missing[0]}",
            where=str(target),
            hint="the same command makes them",
        )
    return [manifest for manifest in found if manifest is not None]


def _merged(
    target: Path, plan: PreparationPlan, shards: "list[ShardManifest]", events: EventWriter
) -> "dict[str, dict[str, Any]]":
    import numpy

    events.stage("joining the shards")
    final = target / preparation.MERGED
    hidden = _hidden(final)
    total = sum(shard["sizes"]["bin"] for shard in shards)
    done = 0
    with _removed_on_error(hidden):
        builder = _megatron().IndexedDatasetBuilder(f"{hidden}.bin", dtype=getattr(numpy, plan["dtype"]))
        for shard in shards:
            prefix = preparation.shard_prefix(target, shard["number"])
            _require_checksums(prefix, shard)
            builder.add_index(str(prefix))
            done += shard["sizes"]["bin"]
            events.progress(done, total, "B")
        builder.finalize(f"{hidden}.idx")
        counted = (
            len(builder.sequence_lengths),
            len(builder.document_indices) - 1,
            Path(f"{hidden}.bin").stat().st_size,
        )
        expected = (sum(one["sequences"] for one in shards), sum(one["documents"] for one in shards), total)
        if counted != expected:
            raise OSError(f"sequences, documents and bytes of the whole are {counted}, those of its shards {expected}")
        files = {f"{final.name}.{ending}": _described(Path(f"{hidden}.{ending}")) for ending in ("bin", "idx")}
        for ending in ("bin", "idx"):
            Path(f"{hidden}.{ending}").replace(f"{final}.{ending}")
    return files


def _described(path: Path) -> "dict[str, Any]":
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def _require_checksums(prefix: Path, shard: ShardManifest) -> None:
    for ending, expected in shard["sha256"].items():
        if checksum(prefix.with_suffix(f".{ending}")) != expected:
            raise TransientError(
                f"the bytes of shard {shard['number']} have changed since it was written",
                where=f"{prefix}.{ending}",
                hint=f"remove {prefix}.json; the same command then makes this shard again",
            )


def _apart(target: Path, shards: "list[ShardManifest]") -> "dict[str, dict[str, Any]]":
    """Write the line that names the shards with tokens, each by its share, and return all their files."""
    used = [shard for shard in shards if shard["tokens"]]
    words = [f"{shard['tokens']} {preparation.shard_prefix(target, shard['number'])}" for shard in used]
    write_text(target / preparation.BLEND, " ".join(words) + "\n")
    return {
        f"{preparation.SHARDS}/{shard['number']:05d}.{ending}": {
            "bytes": shard["sizes"][ending],
            "sha256": shard["sha256"][ending],
        }
        for shard in shards
        for ending in ("bin", "idx")
    }


def _result(target: Path, manifest: "dict[str, Any]") -> "dict[str, Any]":
    if manifest["merged"]:
        data = str(target / preparation.MERGED)
    else:
        data = (target / preparation.BLEND).read_text(encoding="utf-8").strip()
    return {**manifest, "target": str(target), "data": data}
