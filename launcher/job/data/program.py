"""`python3 entrypoint.py --data REQUEST`: prepare training data, or look at it (contract/preparation.py)."""

import signal
import sys
from types import FrameType
from typing import Any, Optional

from ...contract import preparation
from ...contract.events import EventWriter
from ...contract.preparation import InspectionRequest, PreparationRequest
from .. import reporting
from ..errors import UserError


def main(text: str) -> int:
    """Carry out the request `text`. Exit status: 0 done, 2 the request was wrong, 3 anything else failed."""
    signal.signal(signal.SIGTERM, _leave)
    return reporting.answer("--data", text, preparation.parse, _carry_out)


def _carry_out(request: "PreparationRequest | InspectionRequest", events: EventWriter) -> "dict[str, Any]":
    try:
        if isinstance(request, InspectionRequest):
            from . import inspecting

            return inspecting.inspect(request, events)
        from . import preparing

        return preparing.prepare(request, events)
    except ImportError as error:
        raise UserError(
            f"{sys.executable} lacks a package that this needs: {error.name}",
            hint="name an interpreter with the training stack: --python PATH, or `python` in the profile",
        ) from error


def _leave(number: int, _frame: Optional[FrameType]) -> None:
    """End with the processes that were started. The next call removes the hidden files that they leave."""
    raise SystemExit(128 + number)
