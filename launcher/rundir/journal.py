"""The journal of a run: what the launcher was about to do, and the outcome."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack, cast

from launcher._util.errors import DiskError
from launcher.contract import files
from launcher.contract.records import JournalEvent, JournalEventName, JournalValues


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON lines, each on disk (fsync) before `write` returns."""

    path: Path

    def write(self, event: JournalEventName, **values: Unpack[JournalValues]) -> None:
        """Append one event with the time (seconds since the epoch). Raises DiskError."""
        try:
            files.append_line(self.path, {"time": round(time.time(), 3), "event": event, **values}, sync=True)
        except OSError as error:
            raise DiskError(f"cannot write the journal: {error.strerror}", where=str(self.path)) from error

    def read(self) -> list[JournalEvent]:
        """Return all events, oldest first; a line that a crash cut short is left out. Raises DiskError."""
        try:
            return cast(list[JournalEvent], files.read_lines(self.path))
        except OSError as error:
            raise DiskError(f"cannot read the journal: {error.strerror}", where=str(self.path)) from error

    def last(self, *events: JournalEventName) -> JournalEvent | None:
        """Return the newest event of one of these kinds; None if there is none."""
        return next((event for event in reversed(self.read()) if event.get("event") in events), None)
