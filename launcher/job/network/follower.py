"""Follows NCCL's log of one rank until it shows the network, reports that, and ends the rank if the policy says so.

    python3 -S -E follower.py REQUEST        REQUEST: {"parent", "ticks", "log", "settings"} as JSON

It is a process of its own because the rank is inside NCCL's calls meanwhile. It ignores the signals that Slurm sends to
all processes of a step, and leaves by itself as soon as the rank, its parent, is gone.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from launcher.contract import process, rank_ends
from launcher.contract.fabrics import FABRICS
from launcher.contract.fabrics.verdict import BAD, GOOD, UNKNOWN, Expectation, NodeView, Selection, Verdict
from launcher.contract.rank_ends import RankLines
from launcher.job.network import expect, report
from launcher.job.network.judge import judge
from launcher.job.network.parse import advance
from launcher.job.network.tail import NoFileError, Tail
from launcher.job.rank import Rank, read_rank
from launcher.job.record import write_end

TIMEOUT_S = 15 * 60.0
"""How long to wait for the first communicators: models are built and checkpoints loaded before some of them."""

SETTLE_S = 5.0
"""How long a verdict has to hold: lines of several threads come in any order, and causes after their effects."""

CONNECTIONS_S = 60.0
"""How long a good verdict waits for NCCL's lines about its connections, which come with the first collective."""

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""

PEERMEM = ("nvidia_peermem", "nv_peer_mem")
"""Kernel modules by which an RDMA driver reaches the memory of GPUs."""

_LOOK_S = 0.5
_CHANNELS = Path("/dev/nvidia-caps-imex-channels")
_MODULES = Path("/sys/module")
_IOMMU = Path("/sys/class/iommu")


@dataclass(frozen=True)
class Parent:
    """The rank; `ticks` tell it from a later process with its number."""

    pid: int
    ticks: Optional[int]

    @property
    def alive(self) -> bool:
        """Whether it is there: the kernel gives an orphan another parent at once."""
        return os.getppid() == self.pid

    def end(self) -> None:
        """SIGTERM, then SIGKILL."""
        self._send(signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        while self.alive and time.monotonic() < until:
            time.sleep(0.05)
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.alive and process.start_ticks_of(self.pid) == self.ticks:
            with contextlib.suppress(OSError):  # it has ended since the look
                os.kill(self.pid, number)


@dataclass
class Following:
    """What has been read so far, and since when the verdict has been what it is."""

    log: Path
    expected: Expectation
    view: NodeView
    selection: Selection = field(default_factory=Selection)
    verdict: Verdict = field(default_factory=lambda: Verdict(UNKNOWN, "NCCL has said nothing"))
    since: float = 0.0

    def __post_init__(self) -> None:
        self._tail = Tail(self.log)

    def look(self, now: float, *, final: bool = False) -> bool:
        """Read on; True once the verdict is final. Raises NoFileError."""
        while True:
            lines, again = self._tail.read()
            if again:
                self.selection = Selection()
            if not lines:
                break
            for line in lines:
                self.selection = advance(self.selection, line)
        before = self.verdict.word
        self.verdict = judge(self.selection, self.expected, self.view, final=final)
        if self.verdict.word != before:
            self.since = now
        needed = CONNECTIONS_S if self.verdict.provisional else SETTLE_S
        return self.verdict.fatal or (self.verdict.word != UNKNOWN and now - self.since >= needed)


def follow(
    following: Following,
    alive: Callable[[], bool],
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Read until the verdict is final, `alive()` no longer holds or the time is over; True for the first of these."""
    end = clock() + timeout_s
    try:
        while not following.look(clock()):
            if not alive():
                return False
            if clock() > end:
                following.look(clock(), final=True)
                if following.verdict.word == UNKNOWN:
                    words = f"{following.verdict.what}, {timeout_s:.0f} s after the program has begun ({following.log})"
                    following.verdict = Verdict(UNKNOWN, words)
                return True
            sleep(_LOOK_S)
    except NoFileError as error:
        following.verdict = Verdict(UNKNOWN, f"NCCL's lines cannot be followed: {error}")
    return True


def conclude(rank: Rank, following: Following, parent: Parent) -> None:
    """Report the verdict, and end the rank if it is one that the policy does not allow."""
    verdict, expected = following.verdict, following.expected
    ends = (
        verdict.word == BAD
        and verdict.ends
        and expected.policy == "require"
        and parent.alive
        and rank_ends.of_node(rank.paths, rank.node_rank).get(rank.rank, RankLines()).record is None
    )
    content = report.write(rank, verdict, following.selection, expected, following.log, ends=ends)
    if ends:
        # Before the signal: whatever becomes of the rank then, this is why.
        write_end(rank, report.failure(content), pid=parent.pid)
        print(f"error: rank {rank.rank}: {content['sentence']}", file=sys.stderr, flush=True)
        parent.end()


def view_of_this_process() -> NodeView:
    """Return what a verdict's cause may lie in, as this process sees it."""
    names = ("NCCL_", *(name for fabric in FABRICS.values() for name in fabric.read_variables))
    return NodeView(
        environment={name: value for name, value in os.environ.items() if name.startswith(names)},
        uverbs=any(Path("/dev/infiniband").glob("uverbs*")),
        imex=any(_CHANNELS.glob("channel*")),
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        peermem=any((_MODULES / name).exists() for name in PEERMEM) if _MODULES.is_dir() else None,
        iommu=any(_IOMMU.iterdir()) if _IOMMU.is_dir() else None,
    )


def main(arguments: list[str]) -> int:
    """Follow until there is a verdict or no parent any more."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    request = json.loads(arguments[0])
    parent = Parent(int(request["parent"]), request["ticks"])
    rank = read_rank(os.environ)
    following = Following(Path(request["log"]), expect.read(request["settings"]), view_of_this_process())
    found = follow(following, lambda: parent.alive, timeout_s=float(request.get("timeout_s") or TIMEOUT_S))
    if found or following.verdict.word in (GOOD, BAD):
        conclude(rank, following, parent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
