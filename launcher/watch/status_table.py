"""Statuses of runs as a table and as JSON."""

import time
from collections.abc import Sequence
from typing import Any, TextIO

from launcher._util.tables import aligned, printable
from launcher.contract.records import FailingRank
from launcher.slurm.queue import Answer
from launcher.watch.history import history_of, lines
from launcher.watch.progress_state import clock
from launcher.watch.status import Phase, RunStatus, silence_words

_COLUMNS = ("RUN", "JOB", "STATE", "ITERATION", "LOSS", "S/ITERATION", "LEFT", "DETAIL")
_COLOURS = {
    Phase.FINISHED: "green",
    Phase.RUNNING: "cyan",
    Phase.STARTING: "cyan",
    Phase.FAILED: "red",
    Phase.DIVERGED: "red",
    Phase.LOST: "red",
    Phase.REFUSED: "red",
    Phase.UNKNOWN: "yellow",
    Phase.STOPPED: "yellow",
    Phase.STOPPING: "yellow",
}


def to_json(statuses: Sequence[RunStatus], answer: Answer) -> dict[str, Any]:
    """Return the object of `launcher status --json`."""
    return {
        "version": 1,
        "asked_at": answer.asked_at,
        "unreachable": answer.unreachable,
        "runs": [{**status.to_dict(), **history_of(status).to_dict()} for status in statuses],
    }


def row(status: RunStatus, now: float) -> tuple[str, ...]:
    """Return the cells of one row of the table, in which a control character is written as its escape sequence."""
    values = status.to_dict()
    iteration = "" if values["iteration"] is None else str(values["iteration"])
    if iteration and values["train_iters"]:
        iteration += f"/{values['train_iters']}"
    cells = (
        f"{status.run_state.name}/{status.run_state.run_id}",
        status.job or "",
        status.phase.value,
        iteration,
        _number(values["loss"], ".5g"),
        _number(values["seconds_per_iteration"], ".3f"),
        "" if values["seconds_left"] is None else clock(values["seconds_left"]),
        detail(status, now),
    )
    return tuple(map(printable, cells))


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
    """Write a table on a terminal; otherwise lines with two spaces between columns and nothing cut off."""
    rows = [row(status, now) for status in statuses]
    if not stream.isatty():
        stream.writelines(f"{line}\n" for line in aligned([_COLUMNS, *rows]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name in ("JOB", "STATE", "LEFT"))
    for status, cells in zip(statuses, rows, strict=True):
        style = _COLOURS.get(status.phase, "")
        # Text, not markup, because a reason may contain brackets.
        table.add_row(*(Text(cell, style=style if index == 2 else "") for index, cell in enumerate(cells)))
    Console(file=stream).print(table)


def write_histories(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write what became of each attempt, of the runs that have had several or keep going."""
    for status in statuses:
        history = history_of(status)
        if len(history.attempts) > 1 or any(each.ended_because for each in history.attempts):
            head, *rest = map(printable, lines(history))
            stream.writelines(
                f"{line}\n" for line in ("", f"{status.run_state.run_id}: {head}", *(f"  {one}" for one in rest))
            )


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
