"""Statuses of runs as a table."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from launcher._util.tables import aligned, printable
from launcher.contract.records.result import FailingRank
from launcher.watch.progress_state import clock
from launcher.watch.status import Phase, RunStatus, silence_words

_COLUMNS = (
    *("RUN", "JOB", "NODES", "STATE", "ITERATION", "LOSS", "S/ITERATION", "LEFT", "ELAPSED", "LIMIT", "DETAIL"),
)
_NARROW = {
    "STATE": "",
    "JOB": "job {}",
    "ITERATION": "iteration {}",
    "LOSS": "loss {}",
    "LEFT": "{} left",
    "NODES": "nodes: {}",
    "ELAPSED": "for {}",
    "LIMIT": "its limit is in {}",
}
"""Columns beside the run's id on a terminal, the most important first, and how a line below says what has no space."""
_DETAIL_WIDTH = 30
"""The least width of DETAIL beside the other columns; otherwise it stands below them."""
_GREEN, _CYAN, _RED, _YELLOW = 32, 36, 31, 33
_COLOURS = {
    Phase.FINISHED: _GREEN,
    Phase.RUNNING: _CYAN,
    Phase.STARTING: _CYAN,
    Phase.FAILED: _RED,
    Phase.DIVERGED: _RED,
    Phase.LOST: _RED,
    Phase.REFUSED: _RED,
    Phase.UNKNOWN: _YELLOW,
    Phase.STOPPED: _YELLOW,
    Phase.STOPPING: _YELLOW,
}


def row(status: RunStatus, now: float) -> tuple[str, ...]:
    """Return the cells of one row of the table, in which a control character is written as its escape sequence."""
    state = status.run_state
    reached = state.shown("iteration")
    iteration = "" if reached is None else str(reached)
    if iteration and status.train_iters:
        iteration += f"/{status.train_iters}"
    durations = (status.seconds_left, status.elapsed_s, status.limit_left_s)
    cells = (
        f"{state.name}/{state.run_id}",
        status.job or "",
        "" if state.nodes is None else str(state.nodes),
        status.phase.value,
        iteration,
        _number(state.shown("loss"), ".5g"),
        _number(status.seconds_per_iteration, ".3f"),
        *("" if each is None else clock(each) for each in durations),
        detail(status, now),
    )
    return cells if "".join(cells).isprintable() else tuple(map(printable, cells))


def detail(status: RunStatus, now: float) -> str:
    """Describe what a run waits for or how it ended, with the expected start of a waiting job and network warnings."""
    words, network = _detail(status, now), status.run_state.network
    first = _first_failing(status)
    ended_for_it = first is not None and first.get("cause") == "network"
    if network is None or ended_for_it:  # the description already says so
        return words
    return " | ".join(each for each in (words, f"network: {' '.join(network.split())}") if each)


def _first_failing(status: RunStatus) -> FailingRank | None:
    result = status.run_state.result
    return result.get("first_failing_rank") if result else None


def _detail(status: RunStatus, now: float) -> str:
    words = status.detail
    if status.phase is Phase.RUNNING:
        attempt = "" if status.run_state.attempts < 2 else f"attempt {status.run_state.attempt}"
        return " | ".join(each for each in (attempt, silence_words(status.run_state)) if each)
    if status.expected_start is not None:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.expected_start))
        words += f", expected to start in {clock(status.expected_start - now)} ({at})"
    first = _first_failing(status) if status.phase is Phase.FAILED else None
    if first is not None and first.get("host"):
        words += f" | on {first['host']}"
    return " ".join(words.split())


def write_table(statuses: Sequence[RunStatus], stream: TextIO, now: float) -> None:
    """Write a table as wide as the terminal; otherwise lines with two spaces between columns and nothing cut off."""
    rows = [row(status, now) for status in statuses]
    if not stream.isatty():
        stream.writelines(f"{line}\n" for line in aligned([_COLUMNS, *rows]))
        return
    coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    colours = [_COLOURS.get(status.phase) if coloured else None for status in statuses]
    import shutil  # here, not at the top: a list that goes elsewhere needs none

    stream.writelines(f"{line}\n" for line in fitted(rows, shutil.get_terminal_size().columns, colours))


def fitted(rows: Sequence[tuple[str, ...]], width: int, colours: Sequence[int | None]) -> list[str]:
    """Return the lines of a table for a terminal: no line is wider than that but for a run's id, which stays whole.

    Where there is space a run has one line. Otherwise it has its id and what fits beside it, and below that the rest.
    """
    wide = [_padded(column) for column in zip(_COLUMNS, *rows, strict=True)][:-1]
    left = width - sum(len(column[0]) + 2 for column in wide)
    if left >= _DETAIL_WIDTH:
        cells = dict(zip(_COLUMNS, wide, strict=False))
        blocks = [[row[-1]] for row in rows]
        return _joined(cells, blocks, colours, left, " " * (width - left), beside=True)
    named = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    cells = {"RUN": _padded(["RUN", *(one["RUN"].rpartition("/")[2] for one in named)])}
    for name in _NARROW:
        column = _padded([name, *(one[name] for one in named)])
        taken = sum(len(each[0]) + 2 for each in cells.values())
        if any(one[name] for one in named) and taken + len(column[0]) <= width:
            cells[name] = column
    blocks = []
    for one in named:
        rest = [text.format(one[name]) for name, text in _NARROW.items() if name not in cells and one[name]]
        blocks.append([one["RUN"].rpartition("/")[0], *rest, *([one["DETAIL"]] if one["DETAIL"] else [])])
    return _joined(cells, blocks, colours, width - 2, "  ", beside=False)


def _padded(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    return [cell.ljust(width) for cell in column]


def _joined(
    cells: Mapping[str, Sequence[str]],
    blocks: Sequence[Sequence[str]],
    colours: Sequence[int | None],
    width: int,
    indent: str,
    *,
    beside: bool,
) -> list[str]:
    """Return the lines of the cells with each row's block of text beside or below them, in `width` columns."""
    import textwrap

    lines = ["  ".join([*(column[0] for column in cells.values()), *(["DETAIL"] if beside else [])]).rstrip()]
    for number, (texts, colour) in enumerate(zip(blocks, colours, strict=True), 1):
        row = [
            f"\033[{colour}m{column[number]}\033[0m" if name == "STATE" and colour else column[number]
            for name, column in cells.items()
        ]
        text = textwrap.wrap(" | ".join(texts), max(width, _DETAIL_WIDTH), break_on_hyphens=False)
        first = text.pop(0) if beside and text else ""
        lines.append("  ".join([*row, first]).rstrip())
        lines += [f"{indent}{line}" for line in text]
    return lines


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
