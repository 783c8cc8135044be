"""What the ranks of an attempt have left about their ends: `ranks/node-NNNN.jsonl`, one file for all ranks of a node.

A rank appends its RankRecord and its step.sh an ExitRecord, one JSON line each; of two lines of one kind about a rank
the last counts. All processes that write a file run on one node, so that its kernel puts their lines one after the
other. A rank's line reaches the kernel in one write and begins with a line feed; bash writes the line feed first and
then the line. Where a process was killed or the disk was full in the middle of its line, that line alone is lost, since
half a line is not JSON.
"""

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, cast, get_args

from launcher.contract import files
from launcher.contract.paths import AttemptPaths
from launcher.contract.records.ranks import ExitRecord, RankOutcome, RankRecord
from launcher.contract.validation import is_number

_FILE = re.compile(r"node-\d+\.jsonl")
_FEW = 4
"""Files that are read one after the other."""
_AT_ONCE = 32
"""Files that are read at the same time: the answers of a parallel file system take a millisecond each."""


class RankLines(NamedTuple):
    """The last lines about one rank."""

    record: Optional[RankRecord] = None
    exit: Optional[ExitRecord] = None


def append(attempt: AttemptPaths, node: int, record: RankRecord) -> None:
    """Append a rank's record to the file of its node, and wait until it is on the disk. Raises OSError.

    The directory is not synchronised: a name that a power failure takes away takes records of that node with it, and
    the verdict then says that its ranks have left none (docs/explanation/ten-thousand-ranks.md).
    """
    line = f"\n{json.dumps(record, default=str)}\n".encode()
    path = attempt.node_ends(node)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:  # a directory made by hand
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def of_node(attempt: AttemptPaths, node: int) -> dict[int, RankLines]:
    """Return what the ranks of a node have left, by rank; nothing of what cannot be read."""
    return _by_rank([_lines(attempt.node_ends(node))])


def of_attempt(attempt: AttemptPaths) -> dict[int, RankLines]:
    """Return what all ranks have left, by rank; nothing of what cannot be read."""
    try:
        with os.scandir(attempt.ranks) as entries:
            paths = [Path(entry.path) for entry in entries if _FILE.fullmatch(entry.name)]
    except OSError:
        return {}
    if len(paths) <= _FEW:
        return _by_rank(map(_lines, paths))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return _by_rank(pool.map(_lines, paths))


def of_rank(attempt: AttemptPaths, rank: int, node: Optional[int] = None) -> RankLines:
    """Return what a rank has left. `node` is where it most likely ran; other files are read if it is not there."""
    if node is not None and (found := of_node(attempt, node).get(rank)) is not None:
        return found
    return of_attempt(attempt).get(rank, RankLines())


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = files.read_text(path, errors="replace")
    except OSError:  # as the callers say: what cannot be read is not there, and its ranks have left nothing
        return []
    return list(files.parse_lines(text.split("\n")))


def _by_rank(found: Iterable[Iterable[Mapping[str, Any]]]) -> dict[int, RankLines]:
    ends: dict[int, RankLines] = {}
    for lines in found:
        for line in lines:
            rank = line.get("rank")
            if type(rank) is not int:
                continue
            before = ends.get(rank, RankLines())
            # Whatever else a record lacks: another program than ours may have written it.
            if line.get("outcome") in get_args(RankOutcome):
                ends[rank] = before._replace(record=cast(RankRecord, line))
            elif type(line.get("status")) is int and is_number(line.get("time")) and isinstance(line.get("host"), str):
                ends[rank] = before._replace(exit=cast(ExitRecord, line))
    return ends
