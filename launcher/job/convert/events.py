"""Progress of a conversion, one JSON object a line, for the process that started it."""

import json
import time
from typing import Any, Optional, TextIO

from ..errors import UserError, first_line

_PROGRESS_S = 0.2


class ConversionEvents:
    """Writer of events to `stream`; None for ranks other than the first, which write nothing."""

    def __init__(self, stream: Optional[TextIO]) -> None:
        self._stream = stream
        self._written_at = 0.0

    def stage(self, text: str) -> None:
        """Report that a new part of the work begins."""
        self._write({"stage": text})

    def progress(self, done: int, total: int) -> None:
        """Report how many tensors of the stage are done."""
        now = time.monotonic()
        if now - self._written_at >= _PROGRESS_S or done == total:
            self._written_at = now
            self._write({"done": done, "total": total})

    def note(self, text: str) -> None:
        """Report a note for the user."""
        self._write({"note": text})

    def result(self, report: "dict[str, Any]") -> None:
        """Report the parity report: the last event of a complete conversion."""
        self._write({"result": report})

    def _write(self, event: "dict[str, Any]") -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


def report_error(error: BaseException, stream: TextIO) -> int:
    """Write why the conversion ended; return the exit status: 2 for a wrong request, 3 for anything else."""
    user = isinstance(error, UserError)
    message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
    event = {
        "error": message,
        "user": user,
        "where": getattr(error, "where", None) if user else None,
        "hint": getattr(error, "hint", None) if user else None,
    }
    stream.write(json.dumps(event) + "\n")
    stream.flush()
    return 2 if user else 3
