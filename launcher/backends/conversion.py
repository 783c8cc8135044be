"""Conversion of weights: the program that does it, started here or, as a task of submitit, on a compute node.

Its half in the training stack is launcher/job/convert; this one starts it with the Python that tasks run with, and
turns what it tells into a report for people.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import CommandError, LauncherError, RequestError
from launcher._util.resources import resource
from launcher._util.shell import LocalShell, Shell
from launcher.images.build.remote import EventFile, RemoteFailure
from launcher.images.build.report import LineSplitter, Report


@dataclass(frozen=True)
class Conversion:
    """What is asked for; paths are absolute. See launcher/job/convert/request.py for the rest."""

    action: Literal["import", "export"]
    source: str
    target: str
    architecture: str | None = None
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dtype: str | None = None
    logits: bool = True
    device: str = "auto"


def convert(wanted: Conversion, python: str, shell: Shell, report: Report) -> dict[str, Any]:
    """Carry it out on this machine; returns the parity report, whose `ok` says whether the result is equal.

    Raises RequestError for a request that was wrong, CommandError where the program failed.
    """
    if shutil.which(python) is None:
        raise RequestError(f"there is no interpreter {python!r}", hint="The profile's `python` names it, or --python.")
    told: dict[str, Any] = {}

    def take(line: str) -> None:
        _pass_on(line, told, report)

    lines = LineSplitter(take)
    done = shell.stream(
        [python, str(resource("entrypoint.py")), "--convert", json.dumps(asdict(wanted))],
        # What its libraries say on standard error is shown only where it failed.
        lambda name, text: lines(name, text) if name == "out" else None,
        env={name: value for name, value in os.environ.items() if name not in _RANK},
        check=False,
    )
    lines.end()
    if "error" in told:
        kind = RequestError if told["user"] else CommandError
        raise kind(told["error"], where=told.get("where"), hint=told.get("hint") or _last_words(told, done.stderr))
    if "result" not in told:
        last = _last_line(done.stderr)
        raise CommandError(f"the conversion ended with status {done.status} and no report: {last}")
    found: dict[str, Any] = told["result"]
    return found


def perform(wanted: Conversion, python: str | None, events: Path) -> "dict[str, Any] | RemoteFailure":
    """The same on a node, with a file of events; called there."""
    report = EventFile(events)
    try:
        return convert(wanted, python or sys.executable, LocalShell(), report)
    except LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)


_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Of a job that this shell happens to be a rank of: the program makes ranks of its own."""


def _pass_on(line: str, told: dict[str, Any], report: Report) -> None:
    try:
        event = json.loads(line)
    except ValueError:
        event = {"note": line}
    if not isinstance(event, dict):
        return
    if "stage" in event:
        report.stage(event["stage"])
    elif "done" in event:
        report.progress(event["done"], event["total"], "tensors")
    elif "note" in event:
        report.line(f"note: {event['note']}")
    elif "error" in event:
        # The first is the cause: other ranks end because of it. A rank that was only interrupted says less.
        told.setdefault("error", event["error"])
        told.setdefault("user", event["user"])
        told.setdefault("where", event["where"])
        told.setdefault("hint", event["hint"])
    elif "result" in event:
        told["result"] = event["result"]


def _last_words(told: dict[str, Any], stderr: str) -> str | None:
    return None if told["user"] else f"Its last words: {_last_line(stderr)}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
