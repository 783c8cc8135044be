"""Records of a verdict: `network/NNNN.json` of a node, a line in the timeline, a message in the rank's log.

`network/NNNN.warning` has the sentence where a user should read it; `launcher status` looks for these files.
"""

import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import Optional, cast

from ...contract.fabrics.verdict import BAD, GOOD, Expectation, Selection, Verdict
from ...contract.files import append_line, read_object, write_json, write_text
from ...contract.records.ranks import ExceptionRecord
from ...contract.records.timeline import NetworkEvent, NetworkRecord, NetworkSummary
from ..rank import Rank
from ..record import End


def read(rank: Rank) -> Optional[NetworkRecord]:
    """Return the report of this rank's node; None if there is none yet."""
    return cast(Optional[NetworkRecord], read_object(rank.paths.network_record(rank.rank)))


def write(
    rank: Rank,
    verdict: Verdict,
    selection: Selection,
    expected: Expectation,
    log: Optional[Path],
    *,
    ends: bool = False,
) -> NetworkRecord:
    """Write the verdict to all three and return the report. `ends` says that the run ends because of the verdict."""
    summary: NetworkSummary = {
        "verdict": verdict.word,
        "sentence": f"node {socket.gethostname()}: {verdict.sentence}",
        "fabric": expected.fabric,
        "policy": expected.policy,
        "selected": selection.to_dict(),
    }
    content: NetworkRecord = {
        "version": 1,
        "time": time.time(),
        "rank": rank.rank,
        "node": rank.node_rank,
        "host": socket.gethostname(),
        "cause": verdict.cause,
        "line": verdict.line,
        "ends": ends,
        "log": None if log is None else str(log),
        **summary,
    }
    write_json(rank.paths.network_record(rank.rank), content)
    words = f"rank {rank.rank}: {content['sentence']}"
    if verdict.word != GOOD:
        with contextlib.suppress(OSError):  # the report has been written, this only makes it easier to find
            write_text(rank.paths.network_warning(rank.rank), f"{words}\n")
    if rank.rank == 0:
        # Two processes of one node append to this file, each line in one write.
        line: NetworkEvent = {
            "time": content["time"],
            "rank": 0,
            "event": "network",
            "seconds": None,
            **summary,
        }
        append_line(rank.paths.timeline, line)
    kind = {GOOD: "network", BAD: "warning: network"}.get(verdict.word, "warning: the network was not checked")
    print(f"{kind}: {words}", file=sys.stderr, flush=True)
    return content


def failure(report: NetworkRecord, iteration: Optional[int] = None, traceback: str = "") -> End:
    """Return the end of a rank whose run ends because of its network."""
    exception: ExceptionRecord = {
        "type": "NetworkError",
        "message": report["sentence"],
        "where": None,
        "traceback": traceback,
    }
    return End("failed", iteration=iteration, exception=exception, cause="network")
