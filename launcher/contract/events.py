"""Progress and outcome of long work, as one program reports them to another: one JSON object a line.

Conversions and fetching write these lines to standard output, tasks on a compute node to a file that the launcher
follows. `EventWriter` writes them and `EventReader` passes them on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, Protocol, TextIO, TypedDict, Union

from .validation import problems

Unit = Literal["B", "%", "files", "shards", "tensors"]

Fault = Literal["request", "outside", "program"]
"""What is to blame for an error: a wrong request, the world outside (network, disk), or the program."""


class StageEvent(TypedDict):
    """A new part of the work begins."""

    event: Literal["stage"]
    text: str


class LineEvent(TypedDict):
    """A line that people should see: a note, or what a program wrote."""

    event: Literal["line"]
    text: str


class ProgressEvent(TypedDict):
    """How much of the stage is done; `total` is null where that is unknown."""

    event: Literal["progress"]
    done: int
    total: Optional[int]
    unit: Unit


class ErrorEvent(TypedDict):
    """Why the work ended without a result."""

    event: Literal["error"]
    message: str
    fault: Fault
    where: Optional[str]
    hint: Optional[str]


class ResultEvent(TypedDict):
    """What came of the work: the last event of complete work."""

    event: Literal["result"]
    value: dict[str, Any]


WorkEvent = Union[StageEvent, LineEvent, ProgressEvent, ErrorEvent, ResultEvent]

_KINDS = {"stage": StageEvent, "line": LineEvent, "progress": ProgressEvent, "error": ErrorEvent, "result": ResultEvent}


class ProgressListener(Protocol):
    """Hears how far work is."""

    def stage(self, text: str) -> None:
        """Begin a new part of the work."""

    def line(self, text: str) -> None:
        """Take a line that people should see."""

    def progress(self, done: int, total: Optional[int], unit: Unit) -> None:
        """Take how much of the stage is done."""


@dataclass
class EventWriter:
    """A ProgressListener that writes each event as a line. `write` takes the line with its end."""

    write: Callable[[str], object]
    every_s: float = 0.2
    """The least time between two lines of progress; the last of a stage is always written."""
    _written_at: float = field(default=float("-inf"), init=False)

    @classmethod
    def to_file(cls, path: Path) -> "EventWriter":
        """Return a writer that appends to a file, which may lie on a shared file system."""

        def append(line: str) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)

        return cls(append, every_s=0.5)

    @classmethod
    def to_stream(cls, stream: TextIO) -> "EventWriter":
        """Return a writer to a stream, of which each line is sent at once."""

        def send(line: str) -> None:
            stream.write(line)
            stream.flush()

        return cls(send)

    @classmethod
    def silent(cls) -> "EventWriter":
        """Return a writer that writes nothing: for ranks other than the first."""
        return cls(lambda _line: None)

    def stage(self, text: str) -> None:
        """Write that a new part of the work begins."""
        self._event({"event": "stage", "text": text})

    def line(self, text: str) -> None:
        """Write a line that people should see."""
        self._event({"event": "line", "text": text})

    def progress(self, done: int, total: Optional[int], unit: Unit) -> None:
        """Write how much of the stage is done, unless that was written just before."""
        now = time.monotonic()
        if now - self._written_at >= self.every_s or done == total:
            self._written_at = now
            self._event({"event": "progress", "done": done, "total": total, "unit": unit})

    def error(self, message: str, fault: Fault, *, where: Optional[str] = None, hint: Optional[str] = None) -> None:
        """Write why the work ended without a result."""
        self._event({"event": "error", "message": message, "fault": fault, "where": where, "hint": hint})

    def result(self, value: dict[str, Any]) -> None:
        """Write what came of the work."""
        self._event({"event": "result", "value": value})

    def _event(self, event: WorkEvent) -> None:
        self.write(json.dumps(event) + "\n")


@dataclass
class EventReader:
    """Passes events on to a listener, and keeps the error or the result."""

    listener: ProgressListener
    error: Optional[ErrorEvent] = None
    """The first: it is the cause, and other processes end because of that."""
    result: Optional[dict[str, Any]] = None

    def take(self, line: str) -> None:
        """Take one line; a line that is not an event was written by a library, and is shown as it is."""
        try:
            event = json.loads(line)
        except ValueError:
            self.listener.line(line)
            return
        kind = _KINDS.get(str(event.get("event"))) if isinstance(event, dict) else None
        if kind is None or any(problems(event, kind, unknown_keys=True)):
            self.listener.line(line)
        elif kind is StageEvent:
            self.listener.stage(event["text"])
        elif kind is LineEvent:
            self.listener.line(event["text"])
        elif kind is ProgressEvent:
            self.listener.progress(event["done"], event["total"], event["unit"])
        elif kind is ErrorEvent:
            self.error = self.error or event
        else:
            self.result = event["value"]
