"""Waiting for a started run at the terminal: progress, Ctrl-C, the outcome."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from launcher.backends.protocol import StartedRun
from launcher.rundir import Attempt, RunDirectory

_TICK_S = 0.1


@dataclass
class Interrupts:
    """How often Ctrl-C (or SIGTERM) has asked this process to end."""

    count: int = 0

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        """Count one more."""
        self.count += 1


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Count SIGINT, SIGTERM and SIGHUP instead of ending."""
    counted = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, counted.note) for number in numbers}
    try:
        yield counted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(started: StartedRun, counted: Interrupts, *, tick: Callable[[], None], say: Callable[[str], None]) -> int:
    """Wait for the end of the run's step. Return the exit status of the command, as `StartedRun.finish`.

    The first interrupt asks the ranks to save and stop, the second ends the step, further ones repeat that.
    `tick` is called ten times a second, `say` with a sentence for the user.
    """
    handled = 0
    while (status := started.poll()) is None:
        tick()
        if counted.count > handled:
            handled += 1
            if handled == 1 and request_stop(started.run, "Ctrl-C"):
                say("asked the ranks to save and stop after this iteration; Ctrl-C again ends them at once")
            else:
                say("ending the step")
                started.cancel()
        time.sleep(_TICK_S)
    tick()
    return started.finish(status)


def request_stop(run: RunDirectory, reason: str) -> bool:
    """Ask the ranks of the newest attempt to save and stop. Return False if there is no attempt."""
    attempt = run.latest_attempt()
    if attempt is None:
        return False
    attempt.stop.write_text(f"{reason}\n")
    run.journal.write("stop_requested", attempt=attempt.name, reason=reason)
    return True


def summary(run: RunDirectory, attempt: Attempt | None) -> dict[str, Any]:
    """Return the outcome of a run, for people and for --json; it is `unknown` where no verdict was written."""
    result = attempt.result if attempt else None
    return {
        "run_dir": str(run.path),
        "attempt": attempt.name if attempt else None,
        **(result or {"outcome": "unknown", "reason": "no verdict was written"}),
    }
