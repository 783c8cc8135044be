"""Directories that all nodes should see alike: each leaves its mark, and looks for those of the others."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...contract.checks import Check, fail, ok, skip, warn
from .rendezvous import Guest

_PATIENCE_S = 10.0
"""NFS shows what others have written after a few seconds (its attribute cache: 3 to 60 s by default)."""
_SLOW_S = 5.0
_LOOK_S = 0.1
_MOST = 64
"""As many marks each node looks for: of larger jobs those of the nodes that follow it."""


@dataclass(frozen=True)
class Seen:
    """Of one directory: how long until every mark was there, and the hosts whose marks never were."""

    seconds: float
    looked_for: int
    absent: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether this node and those whose marks it sees are no majority: then it is here that something is amiss."""
        return len(self.absent) >= self.looked_for - len(self.absent) + 1


@dataclass
class Marks:
    """This node's marks; `run` tells this attempt from every other."""

    run: str
    node: int
    written: "dict[str, Path]" = field(default_factory=dict)
    refused: "dict[str, str]" = field(default_factory=dict)

    def leave(self, directories: Sequence[str]) -> "tuple[str, ...]":
        """Write a mark into each directory; returns those that could be written."""
        for directory in directories:
            path = mark(directory, self.run, self.node)
            try:
                with path.open("w") as file:
                    file.write(f"{self.run} {self.node}\n")
                    file.flush()
                    os.fsync(file.fileno())
                self.written[directory] = path
            except OSError as error:
                self.refused[directory] = error.strerror or str(error)
        return tuple(self.written)

    def remove(self) -> None:
        """Take the marks away."""
        for path in self.written.values():
            with contextlib.suppress(OSError):
                path.unlink()


def mark(directory: str, run: str, node: int) -> Path:
    """The file that a node leaves."""
    return Path(directory) / f".launcher-doctor-{run}-{node}"


def neighbours(guests: Sequence[Guest], me: int) -> "list[Guest]":
    """The others, beginning with the one that follows this node."""
    others = [each for each in guests if each.node > me] + [each for each in guests if each.node < me]
    return others[:_MOST]


def look(
    directory: str,
    run: str,
    others: Sequence[Guest],
    patience_s: float = _PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Wait until the marks of those who have left one are seen here, with what is in them."""
    wanted = {each.node: each.host for each in others if directory in each.marked}
    begin = clock()
    absent = dict(wanted)
    while True:
        absent = {node: host for node, host in absent.items() if not _there(mark(directory, run, node), run, node)}
        waited = clock() - begin
        if not absent or waited > patience_s:
            return Seen(waited, len(wanted), tuple(absent.values()))
        sleep(_LOOK_S)


def _there(path: Path, run: str, node: int) -> bool:
    try:
        return path.read_text() == f"{run} {node}\n"
    except OSError:
        return False


def shared_check(seen: Mapping[str, Seen], refused: Mapping[str, str], alone: bool) -> Check:
    """Whether what one node writes is what the others read, in the run's directory and in what the profile mounts."""
    name = "shared"
    if alone:
        return skip(name, "one node alone has nobody to share with")
    torn = {directory: sorted(each.absent) for directory, each in seen.items() if each.alone}
    if torn:
        words = "; ".join(
            f"{directory}: what {', '.join(hosts[:4])} wrote is not seen" for directory, hosts in torn.items()
        )
        return fail(
            name,
            f"{len(torn)} torn",
            f"{words} here after {max(each.seconds for each in seen.values()):.0f} s",
            "a directory of this node's own lies where the shared one should be mounted (`findmnt -T DIRECTORY` on "
            "both nodes tells); leave the node out until it is (--exclude)",
            len(torn),
        )
    looked = {directory: each for directory, each in seen.items() if each.looked_for}
    if not looked:
        why = "; ".join(f"{directory}: {words}" for directory, words in refused.items())
        return skip(name, f"no directory could be written to by the others{f' ({why})' if why else ''}")
    slowest = max(each.seconds for each in looked.values())
    value = f"{len(looked)} in {slowest:.1f} s"
    if strangers := sorted({host for each in looked.values() for host in each.absent}):
        return ok(name, f"{len(looked)}, without {', '.join(strangers[:4])}", len(looked))
    if slowest > _SLOW_S:
        return warn(
            name,
            value,
            f"what others write is seen here after {slowest:.1f} s",
            "NFS caches directories: actimeo=1 or lookupcache=none for the directory of runs, or another file system",
            slowest,
        )
    return ok(name, value, slowest)


def master_check(connected: bool, why: str, address: str, came: int, nodes: int, lacking: Sequence[int]) -> Check:
    """MASTER_ADDR and MASTER_PORT, where training's ranks will meet."""
    name = "rendezvous"
    if not connected:
        return fail(
            name,
            "no",
            f"{address}: {why}",
            "the nodes have to reach each other over TCP on ports 20000 to 29000: firewalls, or an address of another "
            "network (`scontrol show node` has NodeAddr)",
        )
    if lacking:
        nodes_text = ", ".join(map(str, lacking))
        return warn(
            name,
            f"{came} of {nodes}",
            f"node {nodes_text} of the job did not come to {address}",
            "see what is said of that node; without it nothing across nodes could be checked for it",
            came,
        )
    return ok(name, f"{came} of {nodes}", came)
