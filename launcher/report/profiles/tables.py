"""The list and the summary of captures as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from launcher._util.errors import LauncherError, RequestError
from launcher._util.shell import Shell
from launcher._util.tables import aligned, printable
from launcher.contract.units import bytes_text
from launcher.report.profiles import time_shares
from launcher.report.profiles.activities import read_activities
from launcher.report.profiles.listing import Capture

_LISTED = ("ATTEMPT", "PROFILER", "RANK", "NODE", "STEPS", "SIZE", "SOUND", "FILE")
_SHARES = ("ATTEMPT", "RANK", "STEPS", "MS/STEP", "BUSY", "COMMUNICATION", "EXPOSED", "IDLE")
_TOP = ("RANK", "OWN MS", "SHARE", "CALLS", "NAME")
_NAME_WIDTH = 100


@dataclass(frozen=True)
class Summary:
    """The summary of one capture, or why there is none."""

    listed: Capture
    shares: time_shares.Shares | None
    top: tuple[time_shares.Top, ...]
    why: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for --json."""
        return {
            **self.listed.to_dict(),
            "shares": self.shares.to_dict() if self.shares else None,
            "top": [asdict(one) for one in self.top],
            "unread": self.why,
        }


def summarise(listed: Sequence[Capture], shell: Shell, *, count: int = 10) -> tuple[Summary, ...]:
    """Read and summarise every report that exists."""
    return tuple(_summary(one, shell, count) for one in listed)


def _summary(one: Capture, shell: Shell, count: int) -> Summary:
    if one.path is None:
        return Summary(one, None, (), one.why)
    try:
        activities = read_activities(one.path, one.profiler, shell)
    except RequestError as error:
        return Summary(one, None, (), f"{error.message}; {error.hint}")
    except LauncherError as error:
        return Summary(one, None, (), error.message)
    return Summary(one, time_shares.shares(activities), tuple(time_shares.top(activities, count)), None)


def write_list(listed: Sequence[Capture], stream: TextIO) -> None:
    """Write a table of the captures, followed by their problems."""
    _write(stream, _LISTED, [capture_row(one) for one in listed])
    for one in listed:
        if one.why:
            stream.write(f"attempt {one.attempt}, rank {one.rank}: {one.why}\n")


def capture_row(one: Capture) -> tuple[str, ...]:
    """Return a row of the list: attempt, profiler, rank, node, steps, size, sound, file."""
    sound = {True: "yes", False: "NO", None: "?"}[one.sound]
    steps = f"{one.steps[0]}:{one.steps[-1] + 1}" if one.steps else f"none of {one.window[0]}:{one.window[1]}"
    node = "" if one.node is None else str(one.node)
    file = one.path.name if one.path else ""
    size = "" if one.bytes is None else bytes_text(one.bytes)
    return (one.attempt, one.profiler, str(one.rank), node, steps, size, sound, file)


def write_summary(summaries: Sequence[Summary], stream: TextIO) -> None:
    """Write how each rank spent its time, then the longest names of each."""
    _write(stream, _SHARES, [share_row(one) for one in summaries if one.shares])
    rows = [
        (str(one.listed.rank), f"{top.own_us / 1000:.3f}", f"{top.share:.1%}", str(top.calls), top.name[:_NAME_WIDTH])
        for one in summaries
        for top in one.top
    ]
    if rows:
        stream.write("\n")
        _write(stream, _TOP, rows)
    for one in summaries:
        if one.why:
            stream.write(f"attempt {one.listed.attempt}, rank {one.listed.rank}: {one.why}\n")


def share_row(one: Summary) -> tuple[str, ...]:
    """Return a row of time shares: attempt, rank, steps, ms per step, shares. The capture must have been read."""
    assert one.shares is not None  # noqa: S101 - filtered by the caller
    values = one.shares.to_dict()
    per_step = one.shares.window_us / 1000 / (one.shares.steps or 1)
    names = ("busy_share", "communication_share", "exposed_share", "idle_share")
    cells = ("-" if values[name] is None else f"{values[name]:.1%}" for name in names)
    return (one.listed.attempt, str(one.listed.rank), str(one.shares.steps), f"{per_step:.2f}", *cells)


def _write(stream: TextIO, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a table on a terminal; otherwise lines with two spaces between columns and nothing cut off."""
    if stream.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold", no_wrap=name not in ("NAME", "FILE"))
        for cells in rows:
            # Text, not markup, because the name of a kernel contains brackets.
            table.add_row(*(Text(printable(cell)) for cell in cells))
        Console(file=stream).print(table)
        return
    stream.writelines(f"{line}\n" for line in aligned([columns, *rows]))
