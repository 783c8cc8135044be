"""The manifest of a checkpoint: names, sizes and sums of its files, and what verifying against it shows.

Sums are XXH3 (64 bits) where the package xxhash can be imported, else CRC-32 of zlib. They find damage, not forgery.
The manifest covers the files directly in the checkpoint's directory, which are those that loading needs.
"""

import contextlib
import json
import os
import random
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from . import checkpoints
from .checkpoints import Problem
from .files import write_text
from .records.checkpoints import CheckpointManifest, CheckpointVerification, FileSum, VerifyMode
from .validation import ContractError, conforming

Algorithm = Literal["xxh3_64", "crc32"]

Summed = tuple[dict[str, FileSum], dict[str, OSError]]
"""Sizes and sums of files by name, and why others could not be read."""

TakeSums = Callable[[Path, Sequence[str], Algorithm, Optional[float]], Summed]
"""Takes the sums of files in a directory until a deadline (time.monotonic), by an algorithm."""

_State = Literal["verified", "partly verified", "sizes only", "unverified"]

_CHUNK_BYTES = 4 << 20
_OWN = "own_sum"
PREFIX = "launcher-"
"""Of the launcher's own files in a checkpoint's directory; those that are being written have dots before it."""


class DamagedError(Exception):
    """A manifest exists, but is not as it was written."""


@dataclass(frozen=True)
class CheckpointVerdict:
    """What a checkpoint turned out to be; `problem` is None where it may be loaded."""

    problem: Optional[Problem]
    verification: Optional[CheckpointVerification]


def best_algorithm() -> Algorithm:
    """Return the algorithm of new manifests in this interpreter."""
    return "xxh3_64" if _hasher("xxh3_64") is not None else "crc32"


def file_names(directory: Path) -> list[str]:
    """Return the names of the files that a manifest of `directory` has, sorted. Raises OSError."""
    with os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            # NFS keeps a removed file that is still open as .nfsXXXX.
            if not entry.name.lstrip(".").startswith(PREFIX) and not entry.name.startswith(".nfs") and entry.is_file()
        )


def sum_files(
    directory: Path,
    names: Sequence[str],
    algorithm: Algorithm,
    *,
    threads: int = 1,
    deadline: Optional[float] = None,
    stop: Optional[threading.Event] = None,
    nice: bool = False,
) -> Summed:
    """Return sizes and sums of files, and the errors of those that could not be read.

    They are read by `threads`; `nice` gives these the lowest priority. A file is in neither if it was not done at the
    `deadline` (time.monotonic) or when `stop` was set.
    """
    waiting, found = list(reversed(names)), dict[str, FileSum]()
    failed: dict[str, OSError] = {}
    over = stop or threading.Event()

    def work() -> None:
        if nice:
            _lowest_priority()
        while not over.is_set():
            try:
                name = waiting.pop()
            except IndexError:
                return  # nothing is left to do
            try:
                one = _sum_file(directory / name, algorithm, deadline, over)
            except OSError as error:
                failed[name] = error
                continue
            if one is not None:
                found[name] = one

    # Daemons: a process that has to end does not wait for them.
    workers = [threading.Thread(target=work, name=f"sums-{index}", daemon=True) for index in range(max(1, threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found, failed


def write_manifest(path: Path, iteration: int, algorithm: Algorithm, files: Mapping[str, FileSum]) -> None:
    """Write a manifest whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _render({"version": 1, "iteration": iteration, "algorithm": algorithm, "files": dict(files)}))


def read_manifest(path: Path) -> Optional[CheckpointManifest]:
    """Return the manifest in a file; None where there is no file.

    Raises DamagedError for one that was changed, and OSError for one that may be there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if checkpoints.is_missing(error):
            return None
        raise
    try:
        text = data.decode("utf-8")
        content = json.loads(text)
        manifest = conforming(content, CheckpointManifest)
    except (ValueError, RecursionError, ContractError) as error:
        raise DamagedError("is damaged: it is not a manifest of version 1") from error
    if text != _render({key: value for key, value in content.items() if key != _OWN}):
        raise DamagedError("is damaged: its own sum is another")
    return manifest


def verify(
    directory: Path,
    manifest_path: Path,
    ckpt_format: str,
    mode: VerifyMode,
    *,
    deadline: Optional[float] = None,
    seed: int = 0,
    take_sums: Optional[TakeSums] = None,
) -> CheckpointVerdict:
    """Return whether a checkpoint may be loaded, by its structure, its sizes and its sums.

    With `mode` budget the sums end at `deadline`; `seed` varies which shards come first. A checkpoint without manifest
    is `unverified`. Shards are summed by `take_sums`, else here, at full speed by at most eight threads. Raises OSError
    where a file may be there and cannot be read: then it is unknown whether the checkpoint is whole.
    """
    try:
        manifest = read_manifest(manifest_path)
    except DamagedError as error:
        return CheckpointVerdict(Problem(manifest_path.name, str(error)), None)
    if manifest is None:
        problem = checkpoints.find_problem(directory, ckpt_format)
        return CheckpointVerdict(problem, None if problem else _result("unverified", mode, {}, {}))
    files = manifest["files"]
    problem = _other_iteration(directory, manifest_path, manifest["iteration"]) or _size_problem(directory, files)
    algorithm: Algorithm = manifest["algorithm"]
    found: dict[str, FileSum] = {}
    note = None
    if mode != "sizes" and not can_sum(algorithm):
        note = f"the sums are {algorithm}, and the package xxhash is not installed"
    elif mode != "sizes" and problem is None:
        # All but the shards first: they are small, and no parser is given a file of which a byte has changed.
        others = [name for name in files if not checkpoints.SHARD.fullmatch(name)]
        found, problem = _compare(directory, others, files, algorithm, None)
    problem = problem or checkpoints.find_problem(directory, ckpt_format)
    if mode != "sizes" and note is None and problem is None:
        shards = [name for name in files if name not in found]
        random.Random(seed).shuffle(shards)  # noqa: S311 - an order, not a secret
        end = deadline if mode == "budget" else None
        more, problem = _compare(directory, shards, files, algorithm, end, take_sums)
        found.update(more)
    if problem is not None:
        return CheckpointVerdict(problem, None)
    state: _State = "verified" if len(found) == len(files) else "partly verified" if found else "sizes only"
    return CheckpointVerdict(None, _result(state, mode, files, found, note))


def describe(verification: CheckpointVerification) -> str:
    """Describe in words what was verified: `verified: 12 files, 3.1 GB`."""
    state, note = verification["state"], f" ({verification['note']})" if verification["note"] else ""
    if state == "unverified":
        return "unverified: no sums were recorded when it was saved; its structure is whole"
    if state == "sizes only":
        return f"sizes only: {verification['files']} files{note}"
    done = f"{verification['verified_files']} files, {verification['verified_bytes'] / 1e9:.3g} GB"
    if state == "verified":
        return f"verified: {done}{note}"
    left = verification["files"] - verification["verified_files"]
    rest = (verification["bytes"] - verification["verified_bytes"]) / 1e9
    return f"partly verified: {done}; not verified: {left} files, {rest:.3g} GB{note}"


def _result(
    state: _State,
    mode: VerifyMode,
    files: Mapping[str, FileSum],
    found: Mapping[str, FileSum],
    note: Optional[str] = None,
) -> CheckpointVerification:
    return {
        "state": state,
        "mode": mode,
        "files": len(files),
        "bytes": sum(one["bytes"] for one in files.values()),
        "verified_files": len(found),
        "verified_bytes": sum(one["bytes"] for one in found.values()),
        "note": note,
    }


def _other_iteration(directory: Path, manifest_path: Path, iteration: int) -> Optional[Problem]:
    """Return the problem of a manifest, or of a whole checkpoint, that was put in the place of another one."""
    number = directory.name.removeprefix("iter_")
    if not number.isdigit() or int(number) == iteration:
        return None
    return Problem(manifest_path.name, f"is that of iteration {iteration}")


def _size_problem(directory: Path, files: Mapping[str, FileSum]) -> Optional[Problem]:
    for name, wanted in sorted(files.items()):
        try:
            size = (directory / name).stat().st_size
        except OSError as error:
            if not checkpoints.is_missing(error):
                raise
            return Problem(name, "is missing")
        if size != wanted["bytes"]:
            return Problem(name, f"has {size} bytes where {wanted['bytes']} were written")
    return None


def _compare(
    directory: Path,
    names: Sequence[str],
    wanted: Mapping[str, FileSum],
    algorithm: Algorithm,
    deadline: Optional[float],
    take_sums: Optional[TakeSums] = None,
) -> tuple[dict[str, FileSum], Optional[Problem]]:
    found, failed = (take_sums or _take_sums)(directory, names, algorithm, deadline)
    for name, error in sorted(failed.items()):
        if not checkpoints.is_missing(error):
            raise OSError(error.errno, error.strerror, str(directory / name)) from error
    if failed:
        return found, Problem(min(failed), "is missing")
    changed = [name for name, one in found.items() if one != wanted[name]]
    if changed:
        return found, Problem(min(changed), "is damaged: its sum is not the one that was recorded when it was saved")
    return found, None


def _take_sums(directory: Path, names: Sequence[str], algorithm: Algorithm, deadline: Optional[float]) -> Summed:
    return sum_files(directory, names, algorithm, threads=full_speed(), deadline=deadline)


def _sum_file(path: Path, algorithm: Algorithm, deadline: Optional[float], stop: threading.Event) -> Optional[FileSum]:
    hasher, size = _hasher(algorithm), 0
    assert hasher is not None  # noqa: S101 - asked before
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(view[:count])
            size += count
            if stop.is_set() or (deadline is not None and time.monotonic() > deadline):
                return None
    return {"bytes": size, "sum": hasher.hexdigest()}


def _render(content: Mapping[str, Any]) -> str:
    """Return the text of a manifest with its own sum: one text for one content, so that any change shows."""
    body = json.dumps(content, indent=1, sort_keys=True)
    return json.dumps({**content, _OWN: f"{zlib.crc32(body.encode()):08x}"}, indent=1, sort_keys=True) + "\n"


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _hasher(algorithm: str) -> Optional[Any]:
    """Return an object that sums bytes; None where the package for it is missing."""
    if algorithm == "crc32":
        return _Crc32()
    try:
        import xxhash
    except ImportError:
        return None
    return xxhash.xxh3_64()


def full_speed() -> int:
    """Return the number of threads that sum at full speed."""
    return min(8, len(os.sched_getaffinity(0)))


def can_sum(algorithm: str) -> bool:
    """Return whether this interpreter has the algorithm."""
    return _hasher(algorithm) is not None


def _lowest_priority() -> None:
    # Linux: a priority belongs to a thread, and is set by the thread's own number.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
