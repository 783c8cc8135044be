"""Output for people on standard error, for programs on standard output; colours only on a terminal."""

import json
import os
import sys
from typing import Any, TextIO

from launcher._util.errors import LauncherError

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return `text` in a colour where `stream` (standard error) is a terminal that wants them (https://no-color.org)."""
    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def info(text: str = "") -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning for people."""
    info(f"{coloured('warning:', 'yellow')} {text}")


def print_json(value: dict[str, Any]) -> None:
    """Print the one object of `--json`."""
    print(json.dumps(value, indent=1, sort_keys=True), flush=True)


def print_error(error: LauncherError, *, as_json: bool) -> None:
    """Print an error as one paragraph; with --json, as an object too."""
    where = f"{error.where}: " if error.where else ""
    info(f"{coloured('error:', 'red')} {where}{error.message}")
    if error.hint:
        info(error.hint)
    if as_json:
        print_json({"error": error_object(error), "exit_status": error.exit_status})


def error_object(error: LauncherError) -> dict[str, str | None]:
    """Return the object of an error in --json."""
    return {"kind": type(error).__name__, "message": error.message, "where": error.where, "hint": error.hint}
