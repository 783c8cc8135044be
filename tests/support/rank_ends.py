"""What ranks leave about their ends, written by hand and read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.contract import rank_ends
from launcher.contract.paths import AttemptPaths


def leave(attempt: Path | AttemptPaths, rank: int, line: Mapping[str, Any] | str | bytes, node: int = 0) -> None:
    """Append a line about a rank: a record without its number, an exit `STATUS SECONDS HOST`, or bytes as they are."""
    paths = attempt if isinstance(attempt, AttemptPaths) else AttemptPaths(attempt)
    if isinstance(line, str):
        status, seconds, host = line.split()
        line = {"status": int(status), "time": float(seconds), "host": host}
    content = line if isinstance(line, bytes) else json.dumps({"rank": rank, **line}).encode()
    with paths.node_ends(node).open("ab") as file:
        file.write(b"\n" + content + b"\n")


def record_of(attempt: Path | AttemptPaths, rank: int) -> dict[str, Any]:
    """The record of a rank; it must have left one."""
    paths = attempt if isinstance(attempt, AttemptPaths) else AttemptPaths(attempt)
    found = rank_ends.of_rank(paths, rank).record
    assert found is not None, f"rank {rank} has left no record in {paths.ranks}"
    return dict(found)


def has_record(attempt: Path | AttemptPaths, rank: int) -> bool:
    """Whether a rank has left its record."""
    paths = attempt if isinstance(attempt, AttemptPaths) else AttemptPaths(attempt)
    return rank_ends.of_rank(paths, rank).record is not None


def exits_in(attempt: Path | AttemptPaths) -> list[int]:
    """The ranks whose step.sh has ended."""
    paths = attempt if isinstance(attempt, AttemptPaths) else AttemptPaths(attempt)
    return sorted(rank for rank, found in rank_ends.of_attempt(paths).items() if found.exit is not None)
