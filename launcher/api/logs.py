"""The log of a rank, written to a stream or followed."""

from collections.abc import Callable
from typing import TextIO

from launcher.api.locate import find_run
from launcher.watch.logs import find_attempt, follow_logs, print_logs


def write_logs(
    name: str,
    stream: TextIO,
    *,
    run_root: str | None = None,
    rank: str | None = None,
    attempt: str | None = None,
    last: int | None = None,
    follow: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> tuple[str, ...]:
    """Write the log of a rank, of a failed run the first failing rank's, else rank 0's, to `stream`.

    With `last` it begins so many lines before the log's end. With `follow` it goes on until the attempt has ended, and
    `say` hears what is waited for. Return a line for each profile that the attempt should have captured and has not.
    Raises RequestError where there is no such log.
    """
    run = find_run(name, run_root)
    if follow:
        from launcher._util.shell import LocalShell

        follow_logs(run, stream, LocalShell(), rank=rank, attempt=attempt, last=last, say=say)
    else:
        print_logs(run, stream, rank=rank, attempt=attempt, last=last)
    found = find_attempt(run, attempt)
    result = found.result if found else None
    if not result or not result.get("profiles"):
        return ()
    from launcher.report.profiles.listing import missing_lines

    return tuple(missing_lines(result))
