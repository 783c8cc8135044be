"""The offset of a node's clock from the first node's."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...contract.checks import Check, fail, ok, skip, warn

_WARN_S = 1.0
"""Logs of several nodes are sorted by their times, and file systems judge by them how fresh a copy is."""
_FAIL_S = 60.0
"""Slurm's messages carry munge credentials, which munge refuses when their time is off (by default 5 minutes)."""

_REMEDY = "run chrony or ntpd on all nodes (chronyc tracking); drain the node whose clock is off"


@dataclass(frozen=True)
class Sample:
    """One exchange, in seconds: when this node asked, the other's clock, when the answer arrived."""

    sent: float
    server_time: float
    received: float

    @property
    def offset(self) -> float:
        """Return how far this node's clock is ahead, assuming that both ways took equally long."""
        return (self.sent + self.received) / 2 - self.server_time

    @property
    def uncertainty(self) -> float:
        """Return half of the time that the answer took: the largest possible error of the offset."""
        return (self.received - self.sent) / 2


def clock_check(samples: Sequence[Sample], first_node: bool) -> Check:
    """Compare the clock with the first node's."""
    name = "clock"
    if first_node:
        return skip(name, "the other nodes are compared with this one", "reference")
    good = [each for each in samples if each.uncertainty >= 0]
    if not good:
        return skip(name, "the first node did not answer, or the clock was set meanwhile")
    best = min(good, key=lambda each: each.uncertainty)
    off = abs(best.offset)
    value = f"{best.offset * 1000:+.1f} ms" if off < _WARN_S else f"{best.offset:+.1f} s"
    sure = off - best.uncertainty
    way = "ahead of" if best.offset > 0 else "behind"
    reason = f"the clock is {off:.1f} s {way} the first node's (measured to {best.uncertainty * 1000:.1f} ms)"
    if sure > _FAIL_S:
        return fail(name, value, reason, _REMEDY, best.offset)
    if sure > _WARN_S:
        return warn(name, value, reason, _REMEDY, best.offset)
    if off > _WARN_S:
        return skip(
            name,
            f"the offset is only known to {best.uncertainty:.1f} s: the network is slow",
            value,
            best.offset,
        )
    return ok(name, value, best.offset)
