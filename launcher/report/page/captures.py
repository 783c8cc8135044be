"""The section about profiles: the list of captures, how the time of the steps was spent, and the longest names."""

from collections.abc import Sequence

from launcher.contract.profiles import asked_of
from launcher.report.page import plots
from launcher.report.page.content import Block, Plot, Subject, Table, Text
from launcher.report.profiles.listing import Capture, list_profiles
from launcher.report.profiles.tables import Summary, capture_row, share_row, summarise
from launcher.report.profiles.time_shares import Shares

READ = 32
"""Limit of captures that are read for tables, because each takes seconds."""

_LISTED = ("Attempt", "Profiler", "Rank", "Node", "Steps", "Size", "Sound", "File")
_SHARES = ("Attempt", "Rank", "Steps", "ms per step", "Busy", "Communication", "Exposed", "Idle")
_TOP = ("Own ms", "Share", "Calls", "Name")
_PARTS = ("compute", "exposed communication", "idle")
_PART_COLOURS = (plots.COLOURS[0], plots.COLOURS[1], plots.GREY)


def captures(subject: Subject) -> Sequence[Block]:
    """Return the blocks that `launcher profiles RUN --summary` shows; none for a run that was not profiled."""
    if not any(asked_of(attempt) for attempt in subject.run.attempts()):
        return ()
    listed = list_profiles(subject.run, subject.shell)
    rows = tuple(capture_row(one) for one in listed)
    blocks: list[Block] = [Table("Captures", _LISTED, rows, frozenset({"Rank", "Node", "Size"}))]
    blocks += [Text(f"{_whose(one)}: {one.why}", "warning") for one in listed if one.why]
    there = [one for one in listed if one.path is not None]
    if len(there) > READ:
        blocks.append(Text(f"The tables show the first {READ} of {len(there)} captures."))
    return [*blocks, *tables_of(summarise(there[:READ], subject.shell))]


def tables_of(summaries: Sequence[Summary]) -> list[Block]:
    """Return the time shares of all ranks, as bars and as a table, then the longest names of each, or why not."""
    blocks: list[Block] = []
    bars = [(one, one.shares) for one in summaries if one.shares and one.shares.busy_us is not None]
    if bars:
        blocks.append(_bars(bars))
    if shares := tuple(share_row(one) for one in summaries if one.shares):
        blocks.append(Table("How the steps' time was spent", _SHARES, shares, frozenset(_SHARES[1:])))
    for one in summaries:
        if one.why:
            blocks.append(Text(f"{_whose(one.listed)}: {one.why}", "warning"))
        if one.top:
            blocks.append(_top(one))
    return blocks


def _bars(bars: Sequence[tuple[Summary, Shares]]) -> Plot:
    per_step = [_milliseconds(shares) for _, shares in bars]
    parts = {part: [values[index] for values in per_step] for index, part in enumerate(_PARTS)}
    description = "Compute is everything that runs except exposed communication; it includes copies."
    names = [_whose(one.listed) for one, _ in bars]
    return plots.stacked_bars(
        "A step of each rank", "ms per step", names, parts, colours=_PART_COLOURS, description=description
    )


def _milliseconds(shares: Shares) -> tuple[float, float, float]:
    busy, exposed, idle = (value or 0.0 for value in (shares.busy_us, shares.exposed_us, shares.idle_us))
    steps = 1000 * (shares.steps or 1)
    return (busy - exposed) / steps, exposed / steps, idle / steps


def _top(one: Summary) -> Table:
    of_gpu = one.shares is not None and one.shares.device == "gpu"
    title = f"The {'kernels' if of_gpu else 'calls'} with the most time: {_whose(one.listed)}"
    rows = tuple((f"{top.own_us / 1000:.3f}", f"{top.share:.1%}", str(top.calls), top.name) for top in one.top)
    return Table(title, _TOP, rows, frozenset(_TOP[:3]))


def _whose(one: Capture) -> str:
    return f"attempt {one.attempt}, rank {one.rank}"
