"""Output for people on standard error, for programs on standard output; colours only on a terminal."""

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from launcher._util.errors import LauncherError
from launcher._util.tables import safe

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
_LONGEST = {"message": 1000, "where": 300, "hint": 500}
"""Characters of an error's parts; what a user gave may be of any length."""


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return `text` in a colour where `stream` (standard error) is a terminal that wants them (https://no-color.org)."""
    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def info(text: str = "") -> None:
    """Print lines for people. What cannot be printed, as on a full disk, does not end the work."""
    try:
        print(safe(text), file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        # Without /dev/null the next lines fail as this one did.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def say(text: str, *, end: str = "\n") -> None:
    """Print lines of a command's answer on standard output."""
    print(safe(text), end=end)


def warn(text: str) -> None:
    """Print a warning for people."""
    info(f"{coloured('warning:', 'yellow')} {text}")


def can_ask() -> bool:
    """Return whether there is a person to answer: standard input and standard error are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, default: str) -> str:
    """Ask for a value on the terminal; an empty answer is the default."""
    shown = f"{question} [{default}]: " if default else f"{question}: "
    sys.stderr.write(safe(shown))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:  # end of file: the terminal is gone
        raise KeyboardInterrupt
    return line.strip() or default


def ask_yes(question: str) -> bool:
    """Ask a question on the terminal; anything but y or yes is a no."""
    return ask(f"{question} [y/N]", "").lower() in ("y", "yes")


def print_json(value: dict[str, Any]) -> None:
    """Print the one object of `--json`."""
    print(json.dumps(value, indent=1, sort_keys=True), flush=True)


def print_error(error: LauncherError, *, as_json: bool) -> None:
    """Print an error as one paragraph; with --json, as an object too."""
    shown = error_object(error)
    where = f"{shown['where']}: " if shown["where"] else ""
    info(f"{coloured('error:', 'red')} {where}{shown['message']} {coloured(f'[{error.id}]', 'dim')}")
    if shown["hint"]:
        info(shown["hint"])
    if as_json:
        print_json({"error": shown, "exit_status": error.exit_status})


def error_object(error: LauncherError) -> dict[str, str | None]:
    """Return the object of an error in --json; its parts are shortened."""
    parts = {name: getattr(error, name) for name in _LONGEST}
    shortened = {name: text and _shortened(text, _LONGEST[name]) for name, text in parts.items()}
    return {"kind": type(error).__name__, "id": error.id, **shortened}


def _shortened(text: str, limit: int) -> str:
    """Return the beginning and the end of a text that is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    left_out = len(text) - limit + 40
    return f"{text[: limit // 2 - 20]} ... ({left_out} characters left out) ... {text[-(limit // 2 - 20) :]}"
