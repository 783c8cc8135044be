"""A program that answers with events on standard output: its errors become one event, and its exit status."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..contract.events import EventWriter
from .errors import TransientError, UserError, first_line
from .watch import stdout_channel

_Request = TypeVar("_Request")


def answer(
    option: str,
    text: str,
    parse: Callable[[str], _Request],
    work: "Callable[[_Request, EventWriter], dict[str, Any]]",
) -> int:
    """Parse the request `text` of entrypoint.py's `option`, and write the result of `work`, or why there is none.

    Exit status: 0 done, 2 the request was wrong, 3 anything else failed.
    """
    with stdout_channel.on_stdout() as out:
        events = EventWriter.to_stream(out)
        try:
            try:
                request = parse(text)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{option} cannot read its request: {error}") from None
            events.result(work(request, events))
        except UserError as error:
            outside = isinstance(error, TransientError)
            events.error(error.message, "outside" if outside else "request", where=error.where, hint=error.hint)
            return 3 if outside else 2
        except OSError as error:
            events.error(
                (error.strerror or str(error)).lower(), "outside", where=error.filename and str(error.filename)
            )
            return 3
        except Exception as error:
            import traceback

            traceback.print_exc()
            events.error(f"{type(error).__name__}: {first_line(error)}", "program")
            return 3
    return 0
