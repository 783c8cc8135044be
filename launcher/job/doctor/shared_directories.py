"""Directories that all nodes should see alike: each node writes a mark, and looks for those of the others."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...contract.checks import Check, fail, ok, skip, warn
from .rendezvous import Peer

_TIMEOUT_S = 10.0
"""NFS shows files of other hosts after a few seconds (its attribute cache: 3 to 60 s by default)."""
_SLOW_S = 5.0
_POLL_S = 0.1
_MAX_MARKS = 64
"""Number of marks that each node looks for: in larger jobs only those of the nodes that follow it."""


@dataclass(frozen=True)
class Seen:
    """Result for one directory: seconds until every mark was there, and the hosts whose marks never appeared."""

    seconds: float
    looked_for: int
    absent: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Return whether this node and those whose marks it sees are a minority; then the fault is on this node."""
        return len(self.absent) >= self.looked_for - len(self.absent) + 1


@dataclass
class Marks:
    """Marks of this node; `run` distinguishes this attempt from every other."""

    run: str
    node: int
    written: "dict[str, Path]" = field(default_factory=dict)
    refused: "dict[str, str]" = field(default_factory=dict)

    def write(self, directories: Sequence[str]) -> "tuple[str, ...]":
        """Write a mark into each directory; return those that could be written."""
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
        """Remove the marks."""
        for path in self.written.values():
            with contextlib.suppress(OSError):  # a directory that went away since is reported by the checks
                path.unlink()


def mark(directory: str, run: str, node: int) -> Path:
    """Return the path of a node's mark."""
    return Path(directory) / f".launcher-doctor-{run}-{node}"


def neighbours(peers: Sequence[Peer], me: int) -> "list[Peer]":
    """Return the other nodes, beginning with the one that follows this node."""
    others = [each for each in peers if each.node > me] + [each for each in peers if each.node < me]
    return others[:_MAX_MARKS]


def wait_for_marks(
    directory: str,
    run: str,
    others: Sequence[Peer],
    timeout_s: float = _TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Wait until the marks of the nodes that wrote one are seen here, with the right content."""
    wanted = {each.node: each.host for each in others if directory in each.marked}
    begin = clock()
    absent = dict(wanted)
    while True:
        absent = {node: host for node, host in absent.items() if not _there(mark(directory, run, node), run, node)}
        waited = clock() - begin
        if not absent or waited > timeout_s:
            return Seen(waited, len(wanted), tuple(absent.values()))
        sleep(_POLL_S)


def _there(path: Path, run: str, node: int) -> bool:
    """Return whether the file of a node is there with its content."""
    try:
        return path.read_text() == f"{run} {node}\n"
    except OSError:
        return False


def shared_check(seen: Mapping[str, Seen], refused: Mapping[str, str], alone: bool) -> Check:
    """Check that each node reads what the others write, in the run's directory and in the profile's mounts."""
    name = "shared"
    if alone:
        return skip(name, "the job has one node only")
    torn = {directory: sorted(each.absent) for directory, each in seen.items() if each.alone}
    if torn:
        words = "; ".join(
            f"{directory}: files written by {', '.join(hosts[:4])} are not seen" for directory, hosts in torn.items()
        )
        return fail(
            name,
            f"{len(torn)} not shared",
            f"{words} here after {max(each.seconds for each in seen.values()):.0f} s",
            "the shared directory is not mounted on this node (compare `findmnt -T DIRECTORY` on "
            "both nodes); leave the node out until it is (--exclude)",
            len(torn),
        )
    looked = {directory: each for directory, each in seen.items() if each.looked_for}
    if not looked:
        why = "; ".join(f"{directory}: {words}" for directory, words in refused.items())
        return skip(name, f"no other node could write to a directory{f' ({why})' if why else ''}")
    slowest = max(each.seconds for each in looked.values())
    value = f"{len(looked)} in {slowest:.1f} s"
    if strangers := sorted({host for each in looked.values() for host in each.absent}):
        return ok(name, f"{len(looked)}, without {', '.join(strangers[:4])}", len(looked))
    if slowest > _SLOW_S:
        return warn(
            name,
            value,
            f"files of other nodes are seen here after {slowest:.1f} s",
            "NFS caches directories: mount the run root with actimeo=1 or lookupcache=none, or use another file system",
            slowest,
        )
    return ok(name, value, slowest)


def master_check(connected: bool, why: str, address: str, came: int, nodes: int, lacking: Sequence[int]) -> Check:
    """Check MASTER_ADDR and MASTER_PORT, where the training's ranks will meet."""
    name = "rendezvous"
    if not connected:
        return fail(
            name,
            "no",
            f"{address}: {why}",
            "nodes must reach each other over TCP at this address and port: check firewalls and the address's network; "
            "[rendezvous] in the cluster profile names another one (suffix, interface, command), or other ports",
        )
    if lacking:
        nodes_text = ", ".join(map(str, lacking))
        return warn(
            name,
            f"{came} of {nodes}",
            f"node {nodes_text} of the job did not connect to {address}",
            "see the findings of that node; nothing across nodes was checked for it",
            came,
        )
    return ok(name, f"{came} of {nodes}", came)
