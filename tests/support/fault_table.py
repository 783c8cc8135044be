"""The faults that the launcher has to survive, which test shows each, and the table that a test run prints about them.

    @pytest.mark.fault("rank crash")
    def test_...(faults: Faults) -> None:
        ...
        faults.note("rank crash", detected_s=0.4, again_s=9.0, lost=3, verdict="program, requeued")

The notes travel with pytest's reports, so that workers of pytest-xdist print one table, too. `tests/faults` runs a test
of each fault; tests/faults/test_catalogue.py holds that.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

MARKER = "fault"
_MARKED, _NOTED = "faults", "fault"

LISTED: Mapping[str, str] = {
    "rank crash": "requeued, the losses of an undisturbed run",
    "node crash": "requeued to other nodes",
    "hang": "the stuck rank named, stacks kept",
    "preemption": "saved in the grace time, requeued, not counted",
    "time limit": "saved before the end, requeued",
    "controller away": "unknown, never failed; the job goes on",
    "no accounting": "the verdict from the run's own records",
    "bad node": "excluded by a successor",
    "full disk": "no half-written file has its final name",
    "damaged checkpoint": "the next older one",
    "broken image": "refused before queueing",
    "two builds of one image": "one build, the others wait",
    "submissions at once": "one job and one directory each",
    "submission twice": "one job",
    "launcher killed": "one job, no file left over",
    "container does not start": "the reason named",
    "interrupted sweep": "completed, none twice",
    "poisoned run": "ended after the same failure twice",
    "clocks, numbers and ranges": "read right",
    "requeue by an administrator": "another attempt of the same run",
}
"""The twenty that were known beforehand: each name with the required result."""

FOUND: Mapping[str, str] = {
    "four resumes at once": "one job; the others refused",
    "another run's job": "never ended",
    "flipped bytes in a shard": "the next older one",
    "full disk at the claim": "job failed; a requeue runs",
    "I/O error after sbatch": "the queued job keeps its run",
    "equal run ids": "one directory each; leavings of the dead swept",
    "cut and empty parts of a checkpoint": "the next older one",
    "login clock ahead": "finished",
    "hang on one of several nodes": "silent, then ended",
    "signals of sites and users": "a stop that can be continued",
    "NaN without a check": "diverged, back before the first bad loss",
    "a lost peer and the real cause": "the cause named, not its victims",
    "what a resume forgot": "nodes kept, holds not",
    "verdict with the job's GPU variables": "finished",
    "another user's directory": "refused",
}
"""The fifteen that were found later."""

FAULTS = {**LISTED, **FOUND}
HEAD = ("fault", "detected after", "running again after", "lost steps", "verdict")


class Note(NamedTuple):
    """What was seen of a fault."""

    fault: str
    detected_s: float | None = None
    """From the last sign of training, or from the fault, to the decision about it."""
    again_s: float | None = None
    """From the decision to the first rank of the next attempt."""
    lost: int | None = None
    """Iterations that were computed in vain."""
    verdict: str = ""


class Faults:
    """The notes of a test; the fixture `faults`."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def note(
        self,
        fault: str,
        *,
        detected_s: float | None = None,
        again_s: float | None = None,
        lost: int | None = None,
        verdict: str = "",
    ) -> None:
        """Note what was seen of a fault."""
        assert fault in FAULTS, f"{fault} is not in the catalogue"
        note = Note(fault, detected_s, again_s, lost, verdict)
        self._node.user_properties.append((_NOTED, json.dumps(note)))

    def note_run(self, fault: str, run: Path, *, attempt: str = "000", lost: int | None = None) -> None:
        """Note what the directory of a run that keeps going shows of one of its attempts and the next one."""
        here, following = run / "attempts" / attempt, run / "attempts" / f"{int(attempt) + 1:03d}"
        decided, result = _object(here / "next.json"), _object(here / "result.json")
        last = max((line["time"] for line in _lines(here / "metrics.jsonl") if "time" in line), default=None)
        begun = next((line["time"] for line in _lines(following / "timeline.jsonl")), None)
        at = decided.get("time")
        named = result.get("failure") or result.get("stopped_by") or result.get("outcome") or ""
        kind, action = str(decided.get("kind", "")), str(decided.get("action", ""))
        self.note(
            fault,
            detected_s=None if at is None or last is None else max(0.0, at - last),
            again_s=None if begun is None or at is None else max(0.0, begun - at),
            lost=lost,
            verdict=", ".join(dict.fromkeys(word for word in (kind, str(named), action) if word)),
        )


def _object(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def names_of(item: pytest.Item) -> list[str]:
    """Return the faults that a test shows."""
    return [name for mark in item.iter_markers(MARKER) for name in mark.args]


def arrange(items: Iterable[pytest.Item]) -> None:
    """Let the reports of marked tests say so."""
    for item in items:
        if names := names_of(item):
            item.user_properties.append((_MARKED, json.dumps(names)))


def table(reports: Iterable[pytest.TestReport]) -> list[tuple[str, ...]]:
    """Return a row for each fault of which a test has ended, in the order of the catalogue."""
    outcomes: dict[str, set[str]] = {}
    notes: dict[str, list[Note]] = {}
    for report in reports:
        if report.when != "call" and report.outcome == "passed":
            continue
        for key, text in getattr(report, "user_properties", ()):  # a module that is skipped has none
            if key == _MARKED:
                for name in json.loads(str(text)):
                    outcomes.setdefault(name, set()).add(report.outcome)
            elif key == _NOTED:
                note = Note(*json.loads(str(text)))
                notes.setdefault(note.fault, []).append(note)
    rows = list[tuple[str, ...]]()
    for name, required in FAULTS.items():
        if not (ended := outcomes.get(name)):
            continue
        wrong = "FAILED" if "failed" in ended else "not run" if ended == {"skipped"} else ""
        for note in notes.get(name) or [Note(name)]:
            verdict = wrong or note.verdict or required
            rows.append((name, _seconds(note.detected_s), _seconds(note.again_s), _count(note.lost), verdict))
    return rows


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def formatted(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the table as lines, as wide as its cells."""
    cells = [HEAD, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
