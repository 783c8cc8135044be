"""How far a conversion is, one JSON object a line, for whoever started it."""

import json
import time
from typing import Any, Optional, TextIO

from ..errors import UserError

_PROGRESS_S = 0.2


class Events:
    """Writes to `stream`; None tells nobody (ranks other than the first)."""

    def __init__(self, stream: Optional[TextIO]) -> None:
        self._stream = stream
        self._told = 0.0

    def stage(self, text: str) -> None:
        """A new part of the work begins."""
        self._write({"stage": text})

    def progress(self, done: int, total: int) -> None:
        """Tensors of the stage that are done."""
        now = time.monotonic()
        if now - self._told >= _PROGRESS_S or done == total:
            self._told = now
            self._write({"done": done, "total": total})

    def note(self, text: str) -> None:
        """What the user should know."""
        self._write({"note": text})

    def result(self, report: "dict[str, Any]") -> None:
        """The parity report: the last event of a conversion that came to its end."""
        self._write({"result": report})

    def _write(self, event: "dict[str, Any]") -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


def tell_error(error: BaseException, stream: TextIO) -> int:
    """Write why it went no further; returns the exit status: 2 the request was wrong, 3 anything else."""
    user = isinstance(error, UserError)
    message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {_first_line(error)}"
    event = {
        "error": message,
        "user": user,
        "where": getattr(error, "where", None) if user else None,
        "hint": getattr(error, "hint", None) if user else None,
    }
    stream.write(json.dumps(event) + "\n")
    stream.flush()
    return 2 if user else 3


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
