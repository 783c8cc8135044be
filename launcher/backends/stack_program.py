"""Programs of the entrypoint that need the training stack (--convert, --data), started here or as a task of submitit.

They run with the Python that tasks run with; their events become a report for people.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, KilledProgramError, LauncherError, OutsideError, RequestError
from launcher._util.line_splitter import LineSplitter
from launcher._util.resources import resource
from launcher._util.shell import LocalShell, Shell
from launcher.contract.events import EventReader, EventWriter, ProgressListener
from launcher.contract.frozen import dataclass
from launcher.images.build.remote import RemoteFailure


@dataclass(frozen=True)
class StackProgram:
    """One call of such a program."""

    option: str
    """The entrypoint's option, such as --convert."""
    request: str
    """The JSON text behind it. Its paths are absolute."""
    what: str
    """What it is called in messages."""


def call(program: StackProgram, python: str, shell: Shell, report: ProgressListener) -> dict[str, Any]:
    """Run on this machine. Return the program's result.

    Raises RequestError for a wrong request, OutsideError or CommandError where the program failed.
    """
    if shutil.which(python) is None:
        raise RequestError(
            f"there is no interpreter {python!r}", hint="Name one with --python, or `python` in the profile."
        )
    events = EventReader(report)
    lines = LineSplitter(events.take)
    done = shell.stream(
        [python, str(resource("entrypoint.py")), program.option, program.request],
        # Standard error, which its libraries write to, is shown only where the program failed.
        lambda name, text: lines(name, text) if name == "out" else None,
        env={name: value for name, value in os.environ.items() if name not in _RANK},
        check=False,
    )
    lines.end()
    last = _last_line(done.stderr)
    if events.error is not None:
        fault = events.error["fault"]
        kind = {"request": RequestError, "outside": OutsideError}.get(fault, CommandError)
        hint = events.error["hint"] or (f"Its last words: {last}" if fault == "program" else None)
        raise kind(events.error["message"], where=events.error["where"], hint=hint)
    if events.result is None:
        if done.status < 0 or done.status > 128:
            raise KilledProgramError(f"{program.what} was ended by a signal, with status {done.status}: {last}")
        raise CommandError(f"{program.what} ended with status {done.status} and no report: {last}")
    return events.result


def perform(program: StackProgram, python: str | None, events: Path) -> "dict[str, Any] | RemoteFailure":
    """Run on the node that calls this, with a file for the events."""
    try:
        return call(program, python or sys.executable, LocalShell(), EventWriter.to_file(events))
    except LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)


_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a job in which this shell may be a rank; the program starts its own ranks."""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
