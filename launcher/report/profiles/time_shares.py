"""Time shares of a rank: the longest names, and how the steps divide into computation, communication and idle time.

    communication   time in which communication runs
    exposed         the part of it in which nothing else runs, which better overlap would save
    idle            time in which nothing runs

All times lie between the start of the first step and the end of the last. They are unions of intervals: two streams
that are busy at the same time count once.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from launcher.report.profiles.activities import COMMUNICATION, Activities, Device

if TYPE_CHECKING:
    import polars as pl


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
    import polars as pl

    frame = activities.frame
    if activities.device == "gpu":
        frame = frame.filter(pl.col("kind") == "kernel").with_columns((pl.col("end") - pl.col("start")).alias("own"))
    else:
        frame = _with_own_time(frame)
    table = (
        frame.group_by("name")
        .agg(pl.len().alias("calls"), (pl.col("end") - pl.col("start")).sum().alias("total"), pl.col("own").sum())
        .sort(["own", "name"], descending=[True, False])
    )
    whole = float(table["own"].sum()) or 1.0
    return [
        Top(name, int(calls), float(total), float(own), float(own) / whole)
        for name, calls, total, own in table.head(count).select("name", "calls", "total", "own").iter_rows()
    ]


def _with_own_time(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Add the time of each call without the calls inside it, for each thread."""
    import polars as pl

    # A caller that starts together with its first call is sorted before it, because it ends later.
    ordered = frame.sort(["thread", "start", "end"], descending=[False, False, True])
    own: list[float] = []
    stack: list[tuple[float, int]] = []
    last = None
    for index, (thread, start, end) in enumerate(ordered.select("thread", "start", "end").iter_rows()):
        if thread != last:
            last, stack = thread, []
        while stack and stack[-1][0] <= start:
            stack.pop()
        if stack:
            own[stack[-1][1]] -= min(end, stack[-1][0]) - start
        own.append(end - start)
        stack.append((end, index))
    return ordered.with_columns(pl.Series("own", own, dtype=pl.Float64))


def shares(activities: Activities) -> Shares:
    """Return how the time of the steps was spent."""
    import polars as pl

    frame, steps = activities.frame, activities.steps
    bounds = (steps if not steps.is_empty() else frame).select(pl.col("start").min(), pl.col("end").max()).row(0)
    if bounds[0] is None:
        return Shares(activities.device, 0, 0.0, None, None, None, None)
    begin, end = float(bounds[0]), float(bounds[1])
    if activities.device == "python":
        return Shares("python", len(steps), end - begin, None, None, None, None)
    inside = frame.with_columns(pl.col("start", "end").clip(begin, end)).filter(pl.col("end") > pl.col("start"))
    communicates = pl.col("name").str.contains(COMMUNICATION)
    busy = union(inside)
    working = union(inside.filter(~communicates))
    return Shares(
        device=activities.device,
        steps=len(steps),
        window_us=end - begin,
        busy_us=busy,
        communication_us=union(inside.filter(communicates)),
        exposed_us=busy - working,
        idle_us=end - begin - busy,
    )


def union(frame: "pl.DataFrame") -> float:
    """Return the length of the union of the intervals [start, end)."""
    import polars as pl

    if frame.is_empty():
        return 0.0
    reach = pl.col("end").cum_max().shift(1)
    pieces = (
        frame.sort("start")
        .with_columns((pl.col("start") > reach).fill_null(True).cum_sum().alias("piece"))
        .group_by("piece")
        .agg(pl.col("end").max() - pl.col("start").min())
    )
    return float(pieces["end"].sum())
