"""What is left of a verdict: `network/NNNN.json` of a node, a line in the timeline, words in the rank's log.

`network/NNNN.warning` holds the sentence where somebody should read it; `launcher status` looks for these.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Optional

from ..rank import Rank
from ..record import End, write_json
from ..watch.jsonl import Lines
from .expect import Expectation
from .judge import BAD, GOOD, Verdict
from .parse import Selected

VERSION = 1


def path_of(rank: Rank) -> Path:
    """Where the report of this rank's node lies."""
    return rank.attempt_dir / "network" / f"{rank.rank:04d}.json"


def read(rank: Rank) -> Optional[dict[str, Any]]:
    """The report of this rank's node; None if there is none yet."""
    try:
        found = json.loads(path_of(rank).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(
    rank: Rank, verdict: Verdict, selected: Selected, expected: Expectation, log: Optional[Path], *, ends: bool = False
) -> dict[str, Any]:
    """Leave the verdict in all three places; returns the report. `ends` says that the run ends for it."""
    content = {
        "version": VERSION,
        "time": time.time(),
        "rank": rank.rank,
        "node": rank.node_rank,
        "host": socket.gethostname(),
        "policy": expected.policy,
        "fabric": expected.fabric,
        "verdict": verdict.word,
        "sentence": f"node {socket.gethostname()}: {verdict.sentence}",
        "cause": verdict.cause,
        "line": verdict.line,
        "ends": ends,
        "log": None if log is None else str(log),
        "selected": selected.to_dict(),
    }
    write_json(path_of(rank), content)
    words = f"rank {rank.rank}: {content['sentence']}"
    if verdict.word != GOOD:
        _write_text(path_of(rank).with_suffix(".warning"), f"{words}\n")
    if rank.rank == 0:
        # Two processes of one node append to this file, each line in one write.
        event = {name: content[name] for name in ("verdict", "sentence", "fabric", "policy", "selected")}
        line = {"time": content["time"], "rank": 0, "event": "network", "seconds": None, **event}
        Lines(rank.attempt_dir / "timeline.jsonl").write(line)
    kind = {GOOD: "network", BAD: "warning: network"}.get(verdict.word, "warning: the network was not checked")
    print(f"{kind}: {words}", file=sys.stderr, flush=True)
    return content


def failure(report: dict[str, Any], iteration: Optional[int] = None, traceback: str = "") -> End:
    """The end of a rank whose run ends for its network."""
    exception = {"type": "NetworkError", "message": report["sentence"], "where": None, "traceback": traceback}
    return End("failed", iteration=iteration, exception=exception, cause="network")


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # the report has been written, this only makes it easier to find
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
