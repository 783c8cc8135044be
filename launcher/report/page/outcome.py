"""The section about the outcome of each attempt, with the logs of failed ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.contract.records.result import AttemptResult
from launcher.report.page.content import Block, Heading, LogExcerpt, Subject, Table, Text, as_mapping, facts, text_of
from launcher.report.page.overview import format_time
from launcher.rundir import Attempt
from launcher.watch.logs import choose
from launcher.watch.progress_state import number
from launcher.watch.tail import FileTail

_FAILURES = 3
"""Limit of failed attempts that are shown with their logs; the newest are shown."""
_LINES = 60
_BYTES = 64 << 10
_RANKS = 16

_COLUMNS = ("Attempt", "Outcome", "Iteration", "Loss", "Seconds per iteration", "Ended")
_NUMERIC = frozenset({"Iteration", "Loss", "Seconds per iteration"})


def outcome(subject: Subject) -> Sequence[Block]:
    """Return a table of all attempts with a verdict, then the first failing rank of each failed one and its log.

    Why an attempt ended stands above, in the state of the run or in the history of its attempts.
    """
    judged = [(attempt, result) for attempt in subject.run.attempts() if (result := attempt.result) is not None]
    if not judged:
        return ()
    rows = tuple(_row(attempt, result) for attempt, result in judged)
    blocks: list[Block] = [Table("Attempts", _COLUMNS, rows, _NUMERIC)]
    failed = [
        (attempt, result)
        for attempt, result in judged
        if result.get("outcome") == "failed" or result.get("first_failing_rank")
    ]
    for attempt, result in reversed(failed[-_FAILURES:]):
        blocks += _failure(subject, attempt, result)
    if len(failed) > _FAILURES:
        blocks.append(Text(f"{len(failed) - _FAILURES} earlier attempts failed; see `launcher logs --attempt`."))
    return blocks


def _row(attempt: Attempt, result: AttemptResult) -> tuple[str, ...]:
    ended = number(result, "ended")
    return (
        attempt.name,
        text_of(result.get("outcome")),
        text_of(result.get("iteration")),
        text_of(result.get("loss"), ".6g"),
        text_of(result.get("seconds_per_iteration"), ".4g"),
        "" if ended is None else format_time(ended),
    )


def _failure(subject: Subject, attempt: Attempt, result: AttemptResult) -> list[Block]:
    first, evidence = as_mapping(result.get("first_failing_rank")), as_mapping(result.get("evidence"))
    reason = text_of(result.get("reason"))
    blocks: list[Block] = [
        Heading(f"What failed in attempt {attempt.name}"),
        facts(
            ("First failing rank", text_of(first.get("rank"))),
            ("Host", first.get("host")),
            ("What", _unless_in(text_of(first.get("what")), reason)),
            ("Where", first.get("where")),
            ("Cause", first.get("cause")),
            ("Class", result.get("failure")),
            ("Evidence", _unless_in(text_of(evidence.get("line")), f"{reason}\n{text_of(first.get('what'))}")),
            ("Node", evidence.get("node")),
            ("What to do", evidence.get("todo")),
            ("Failed ranks", _ranks(result.get("failed_ranks"))),
            ("Ranks that left nothing", _ranks(result.get("missing_ranks"))),
        ),
    ]
    for log in choose(subject.run, attempt, None):
        if lines := tail(log.path):
            blocks.append(LogExcerpt(f"The end of {log.path.relative_to(subject.run.path)}", lines))
    return blocks


def _unless_in(text: str, said: str) -> str:
    """Return a text that is not part of what is said already."""
    return "" if " ".join(text.split()) in " ".join(said.split()) else text


def _ranks(ranks: Any) -> str:
    if not isinstance(ranks, list):
        return ""
    more = f" and {len(ranks) - _RANKS} more" if len(ranks) > _RANKS else ""
    return ", ".join(map(str, ranks[:_RANKS])) + more


def tail(path: Path) -> tuple[str, ...]:
    """Return the last lines of a log with an incomplete last line; none if there is no log."""
    if not path.is_file():
        return ()
    skipped = max(0, path.stat().st_size - _BYTES)
    lines = FileTail(path, skipped).read(unfinished=True)
    # If the beginning was skipped, the first line is incomplete.
    return tuple((lines[1:] if skipped and len(lines) > 1 else lines)[-_LINES:])
