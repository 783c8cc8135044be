"""Time shares of a rank: the longest names, and how the steps divide into computation, communication and idle time.

    communication   time in which communication runs
    exposed         the part of it in which nothing else runs, which better overlap would save
    idle            time in which nothing runs

All times lie between the start of the first step and the end of the last. They are unions of intervals: two streams
that are busy at the same time count once.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.report.profiles.activities import COMMUNICATION, Activities, Activity, Device


@dataclass(frozen=True)
class Top:
    """A name with its calls, total time, time without the calls inside it, and share of the whole (0 to 1)."""

    name: str
    calls: int
    total_us: float
    own_us: float
    share: float


@dataclass(frozen=True)
class Shares:
    """How the time of the steps was spent; None if the trace does not show it (Python calls)."""

    device: Device
    steps: int
    window_us: float
    busy_us: float | None
    communication_us: float | None
    exposed_us: float | None
    idle_us: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the shares of the window (0 to 1)."""
        shares = {
            name.removesuffix("_us") + "_share": None if value is None or not self.window_us else value / self.window_us
            for name, value in asdict(self).items()
            if name.endswith("_us") and name != "window_us"
        }
        return {**asdict(self), **shares}


def top(activities: Activities, count: int = 10) -> list[Top]:
    """Return the names with the most own time, longest first.

    On a GPU these are kernels of the whole report, as in `nsys stats`; all of a kernel's time is its own. Calls contain
    other calls, whose time is not their own.
    """
    if activities.device == "gpu":
        timed = [(one, one.end - one.start) for one in activities.rows if one.kind == "kernel"]
    else:
        timed = _with_own_time(activities.rows)
    found: dict[str, list[float]] = {}
    for one, own in timed:
        sums = found.setdefault(one.name, [0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += one.end - one.start
        sums[2] += own
    whole = sum(own for _, _, own in found.values()) or 1.0
    ordered = sorted(found.items(), key=lambda pair: (-pair[1][2], pair[0]))
    return [Top(name, int(calls), total, own, own / whole) for name, (calls, total, own) in ordered[:count]]


def _with_own_time(rows: Sequence[Activity]) -> list[tuple[Activity, float]]:
    """Return each call with its time without the calls inside it, for each thread."""
    # A caller that starts together with its first call is sorted before it, because it ends later.
    ordered = sorted(rows, key=lambda one: (one.thread, one.start, -one.end))
    own: list[float] = []
    stack: list[tuple[float, int]] = []
    last = None
    for index, (_, _, start, end, thread) in enumerate(ordered):
        if thread != last:
            last, stack = thread, []
        while stack and stack[-1][0] <= start:
            stack.pop()
        if stack:
            own[stack[-1][1]] -= min(end, stack[-1][0]) - start
        own.append(end - start)
        stack.append((end, index))
    return list(zip(ordered, own, strict=True))


def shares(activities: Activities) -> Shares:
    """Return how the time of the steps was spent."""
    steps = activities.steps
    spans = [(one.start, one.end) for one in steps or activities.rows]
    if not spans:
        return Shares(activities.device, 0, 0.0, None, None, None, None)
    begin, end = min(start for start, _ in spans), max(end for _, end in spans)
    if activities.device == "python":
        return Shares("python", len(steps), end - begin, None, None, None, None)
    communicates = _communicates(activities.rows)
    inside = [
        (max(one.start, begin), min(one.end, end), one.name in communicates)
        for one in activities.rows
        if one.end > begin and one.start < end
    ]
    inside = [one for one in inside if one[1] > one[0]]
    busy = union((start, end) for start, end, _ in inside)
    working = union((start, end) for start, end, communication in inside if not communication)
    return Shares(
        device=activities.device,
        steps=len(steps),
        window_us=end - begin,
        busy_us=busy,
        communication_us=union((start, end) for start, end, communication in inside if communication),
        exposed_us=busy - working,
        idle_us=end - begin - busy,
    )


def _communicates(rows: Iterable[Activity]) -> set[str]:
    is_communication = re.compile(COMMUNICATION).search
    return {name for name in {one.name for one in rows} if is_communication(name)}


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of the intervals [start, end)."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(intervals):
        if end > reach:
            total += end - max(start, reach)
            reach = end
    return total
