"""Conversion of weights: starts launcher/job/convert here, or on a compute node as a task of submitit.

The program runs with the Python that tasks run with; its events become a report for people.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, LauncherError, RequestError
from launcher._util.line_splitter import LineSplitter
from launcher._util.resources import resource
from launcher._util.shell import LocalShell, Shell
from launcher.contract.conversion import ConversionRequest
from launcher.contract.events import EventReader, EventWriter, ProgressListener
from launcher.images.build.remote import RemoteFailure


def convert(request: ConversionRequest, python: str, shell: Shell, report: ProgressListener) -> dict[str, Any]:
    """Convert on this machine. Return the parity report, whose `ok` says whether the result is equal.

    The request's paths are absolute. Raises RequestError for a wrong request, CommandError where the program failed.
    """
    if shutil.which(python) is None:
        raise RequestError(
            f"there is no interpreter {python!r}", hint="Name one with --python, or `python` in the profile."
        )
    events = EventReader(report)
    lines = LineSplitter(events.take)
    done = shell.stream(
        [python, str(resource("entrypoint.py")), "--convert", request.to_json()],
        # Standard error, which its libraries write to, is shown only where the program failed.
        lambda name, text: lines(name, text) if name == "out" else None,
        env={name: value for name, value in os.environ.items() if name not in _RANK},
        check=False,
    )
    lines.end()
    last = _last_line(done.stderr)
    if events.error is not None:
        wrong = events.error["fault"] == "request"
        kind = RequestError if wrong else CommandError
        hint = events.error["hint"] or (None if wrong else f"Its last words: {last}")
        raise kind(events.error["message"], where=events.error["where"], hint=hint)
    if events.result is None:
        raise CommandError(f"the conversion ended with status {done.status} and no report: {last}")
    return events.result


def perform(request: ConversionRequest, python: str | None, events: Path) -> "dict[str, Any] | RemoteFailure":
    """Convert on the node that calls this, with a file for the events."""
    report = EventWriter.to_file(events)
    try:
        return convert(request, python or sys.executable, LocalShell(), report)
    except LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)


_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a job in which this shell may be a rank; the program starts its own ranks."""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
