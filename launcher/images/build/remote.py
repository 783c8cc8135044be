"""Builds and imports on a compute node, as a task of submitit.

Progress is written to a file of events, one JSON object a line, and shown where the user waits.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher._util import errors
from launcher._util.shell import LocalShell
from launcher.images.build.build import BuildRequest, build
from launcher.images.build.importing import ImportRequest, import_image
from launcher.images.build.report import Report, Unit
from launcher.images.build.result import ImageOutcome
from launcher.images.store.store import Store

_UNITS: tuple[Unit, ...] = ("B", "%", "files", "tensors")
_PROGRESS_S = 0.5
"""At most two lines of progress a second: the file lies on a shared file system."""


@dataclass
class EventFile:
    """A Report that appends to a file."""

    path: Path
    _written_at: float = 0.0

    def stage(self, text: str) -> None:
        """Write the start of a stage; see `Report.stage`."""
        self._write({"stage": text})

    def line(self, text: str) -> None:
        """Write a line; see `Report.line`."""
        self._write({"line": text})

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """Write the progress; see `Report.progress`."""
        now = time.monotonic()
        if now - self._written_at >= _PROGRESS_S or done == total:
            self._written_at = now
            self._write({"done": done, "total": total, "unit": unit})

    def _write(self, event: dict[str, object]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def replay(event: dict[str, object], report: Report) -> None:
    """Show one event of such a file."""
    if "stage" in event:
        report.stage(str(event["stage"]))
    elif "line" in event:
        report.line(str(event["line"]))
    elif isinstance(done := event.get("done"), int):
        total = event.get("total")
        unit: Unit = next((one for one in _UNITS if event.get("unit") == one), "files")
        report.progress(done, total if isinstance(total, int) else None, unit)


@dataclass(frozen=True)
class RemoteFailure:
    """A LauncherError that was raised on the node, to be raised again where the user waits."""

    kind: str
    message: str
    where: str | None
    hint: str | None

    def error(self) -> errors.LauncherError:
        """Return the error, of its own class."""
        known = getattr(errors, self.kind, errors.OutsideError)
        made: errors.LauncherError = known(self.message, where=self.where, hint=self.hint)
        return made


Kind = Literal["build", "import"]


def perform(request: BuildRequest | ImportRequest, root: Path, events: Path) -> ImageOutcome | RemoteFailure:
    """Build or import into the store at `root`; called on the node."""
    report = EventFile(events)
    try:
        if isinstance(request, BuildRequest):
            return build(request, Store(root), LocalShell(), report)
        return import_image(request, Store(root), LocalShell(), report)
    except errors.LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)
