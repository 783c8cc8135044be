"""The journal of a run: what the launcher was about to do and what came of it."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON lines, each on disk (fsync) before `write` returns."""

    path: Path

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time (seconds since the epoch)."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        try:
            # One write on a descriptor opened for appending: lines of two writers never mix.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DiskError(f"cannot write the journal: {error.strerror}", where=str(self.path)) from error

    def read(self) -> list[dict[str, Any]]:
        """All events, oldest first; a line that a crash cut short is left out."""
        if not self.path.exists():
            return []
        events = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def last(self, *events: str) -> dict[str, Any] | None:
        """The newest event of one of these kinds."""
        return next((event for event in reversed(self.read()) if event.get("event") in events), None)
