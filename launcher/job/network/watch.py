"""The rank's side: NCCL's variables before torch is loaded, the follower before training, the report at the end."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from ...contract import process
from ...contract.fabrics.verdict import BAD, UNKNOWN, Expectation, Selection, Verdict
from ...contract.records.timeline import NetworkRecord
from ..rank import Rank
from ..record import End
from . import expect, follower, report, variables, warning
from .judge import judge


@dataclass
class Watch:
    """One rank's part in watching the network of its node: the first one follows NCCL's log."""

    rank: Rank
    settings: Mapping[str, Any]
    expected: Expectation
    log: Optional[Path] = None
    """The file that is followed; None before `begin`, and where nothing can be followed."""
    process: "Optional[subprocess.Popen[bytes]]" = field(default=None, repr=False)

    def begin(self, device: str, environ: Mapping[str, str] = os.environ) -> None:
        """Start the follower. Once, after the one new start that a recipe's variables may need."""
        if self.rank.local_rank != 0:
            return
        own = own_log(self.rank)
        pattern = environ.get("NCCL_DEBUG_FILE", "")
        log = Path(variables.expand(pattern, socket.gethostname(), os.getpid())).absolute()
        why = variables.blind(environ)
        if device == "cpu" and log == own:
            why = "the ranks compute on CPU, without NCCL"
        if why is not None:
            report.write(self.rank, Verdict(UNKNOWN, why), Selection(), self.expected, None)
            return
        self.log = log
        request = {
            "parent": os.getpid(),
            "ticks": process.start_ticks_of(os.getpid()),
            "log": str(log),
            "settings": dict(self.settings),
        }
        # Without site and PYTHON* variables: what it needs is the standard library.
        command = [sys.executable, "-S", "-E", str(Path(follower.__file__).resolve()), json.dumps(request)]
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            words = Verdict(UNKNOWN, f"the follower of NCCL's log cannot be started: {error}")
            report.write(self.rank, words, Selection(), self.expected, log)

    def explain(self, end: End) -> End:
        """Return the rank's end: replaced where the run ends because of its network, with NCCL's last warning."""
        ended = self._explained(end)
        if ended.cause == "network" or not _of_nccl(ended) or ended.exception is None:
            return ended
        said = warning.read(self.log or self.rank.paths.log(self.rank.rank))
        if said is None or said.text in ended.exception["message"]:
            return ended
        message = f"{ended.exception['message'].rstrip()}\n{said}"
        return replace(ended, exception={**ended.exception, "message": message})

    def _explained(self, end: End) -> End:
        if self.process is None or self.log is None:
            return end
        # From here on this process alone writes about it.
        self.process.kill()
        self.process.wait()
        try:
            found = report.read(self.rank) or self._last_look(end)
        except Exception as error:  # whatever it is, the rank's own end has to be written
            print(f"warning: the network was not checked: {error}", file=sys.stderr, flush=True)
            return end
        if found is None or end.outcome == "finished" or not found.get("ends"):
            return end
        trace = end.exception["traceback"] if end.exception else ""
        return report.failure(found, end.iteration, trace)

    def _last_look(self, end: End) -> Optional[NetworkRecord]:
        """Report on a rank that ends before there was a verdict: NCCL without a network fails by itself."""
        assert self.log is not None  # noqa: S101 only called where a log is followed
        following = follower.Following(self.log, self.expected, follower.view_of_this_process())
        follower.follow(following, lambda: False)
        verdict = judge(following.selection, self.expected, following.view, final=True)
        if verdict.word == UNKNOWN and end.outcome != "finished":
            return None  # it ended before NCCL had anything to say
        ends = (
            _of_nccl(end)
            and verdict.word == BAD
            and verdict.ends
            and (verdict.fatal or self.expected.policy == "require")
        )
        return report.write(self.rank, verdict, following.selection, self.expected, self.log, ends=ends)


def _of_nccl(end: End) -> bool:
    """Whether a rank failed because communication did."""
    message = end.exception["message"] if end.exception else ""
    return end.outcome == "failed" and (end.cause == "communication" or "NCCL" in message)


def own_log(rank: Rank) -> Path:
    """NCCL's log of this rank where the user has named no other file."""
    return rank.paths.nccl_log(rank.rank)


def prepare(rank: Rank, settings: Mapping[str, Any], environ: MutableMapping[str, str] = os.environ) -> Watch:
    """Set NCCL's variables: a node's first rank logs what NCCL selects, the others warnings alone.

    Raises UserError for a wrong expectation.
    """
    expected = expect.read(settings)
    if rank.local_rank != 0:
        environ.update(variables.warnings_only(environ))
        return Watch(rank, settings, expected)
    path = own_log(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    environ.update(variables.wanted(environ, path))
    return Watch(rank, settings, expected)
