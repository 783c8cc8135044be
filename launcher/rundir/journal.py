"""The journal of a run: what the launcher was about to do, and the outcome."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from launcher._util.errors import DiskError
from launcher.contract import files
from launcher.contract.frozen import dataclass
from launcher.contract.validation import problems

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from launcher.contract.records.journal import JournalEvent, JournalEventName, JournalValues


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON lines, each on disk (fsync) before `write` returns."""

    path: Path

    def write(self, event: "JournalEventName", **values: "Unpack[JournalValues]") -> None:
        """Append one event with the time (seconds since the epoch). Raises DiskError."""
        try:
            files.append_line(self.path, {"time": round(time.time(), 3), "event": event, **values}, sync=True)
        except OSError as error:
            raise DiskError(f"cannot write the journal: {error.strerror}", where=str(self.path)) from error

    def read(self) -> "list[JournalEvent]":
        """Return all events, oldest first; lines cut short or of a wrong form are left out. Raises DiskError."""
        return self.read_checked()[0]

    def read_checked(self) -> "tuple[list[JournalEvent], str | None]":
        """Return all events, and what is wrong with the first that has a wrong form. Raises DiskError.

        A line that a crash cut short is not wrong, nor is an event that only a later launcher knows.
        """
        from launcher.contract.records.journal import JournalEvent, JournalEventName

        try:
            lines = files.read_lines(self.path)
        except OSError as error:
            raise DiskError(f"cannot read the journal: {error.strerror}", where=str(self.path)) from error
        known = get_args(JournalEventName)
        events, wrong = list[JournalEvent](), None
        for line in lines:
            name = line.get("event")
            if isinstance(name, str) and name not in known:
                continue
            found = next(problems(line, JournalEvent, unknown_keys=True), None)
            if found is None:
                events.append(cast(JournalEvent, line))
            else:
                wrong = (
                    wrong or f"an event of the journal {found if found.startswith('lacks') else f'is wrong: {found}'}"
                )
        return events, wrong

    def last(self, *events: "JournalEventName") -> "JournalEvent | None":
        """Return the newest event of one of these kinds; None if there is none."""
        return next((event for event in reversed(self.read()) if event.get("event") in events), None)
