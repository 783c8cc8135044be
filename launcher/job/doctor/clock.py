"""How far a node's clock is from the first node's."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...contract.checks import Check, fail, ok, skip, warn

_WARN_S = 1.0
"""Logs of several nodes are put in order by their times, and file systems judge by them how fresh a copy is."""
_FAIL_S = 60.0
"""Munge refuses credentials from another time: five minutes by default, and Slurm's answers are such."""

_REMEDY = "have chrony or ntpd running on all nodes (chronyc tracking); drain the node where the clock is off"


@dataclass(frozen=True)
class Sample:
    """One exchange: when this node asked, what the other's clock said, when the answer was here. Seconds."""

    asked: float
    said: float
    answered: float

    @property
    def offset(self) -> float:
        """How far this node's clock is ahead, if both ways took as long."""
        return (self.asked + self.answered) / 2 - self.said

    @property
    def doubt(self) -> float:
        """Half of the time that the answer took: the offset may be wrong by as much."""
        return (self.answered - self.asked) / 2


def clock_check(samples: Sequence[Sample], first_node: bool) -> Check:
    """The clock against the first node's."""
    name = "clock"
    if first_node:
        return skip(name, "the others are compared with this node", "reference")
    good = [each for each in samples if each.doubt >= 0]
    if not good:
        return skip(name, "the first node did not answer, or the clock was set meanwhile")
    best = min(good, key=lambda each: each.doubt)
    off = abs(best.offset)
    value = f"{best.offset * 1000:+.1f} ms" if off < _WARN_S else f"{best.offset:+.1f} s"
    sure = off - best.doubt
    way = "ahead of" if best.offset > 0 else "behind"
    reason = f"the clock is {off:.1f} s {way} the first node's (measured to {best.doubt * 1000:.1f} ms)"
    if sure > _FAIL_S:
        return fail(name, value, reason, _REMEDY, best.offset)
    if sure > _WARN_S:
        return warn(name, value, reason, _REMEDY, best.offset)
    if off > _WARN_S:
        return skip(name, f"it was measured to {best.doubt:.1f} s only: the network is too slow", value, best.offset)
    return ok(name, value, best.offset)
