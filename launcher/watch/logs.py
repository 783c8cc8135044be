"""Logs of ranks, printed or followed."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import Shell
from launcher.contract.files import open_regular
from launcher.rundir import Attempt, RunDirectory
from launcher.watch.status import status_of
from launcher.watch.tail import LogCopy, begin_of_last

_READ_INTERVAL_S = 0.25
_STATUS_INTERVAL_S = 5.0
"""Interval of queries whether an attempt without a verdict still runs."""


_MOST_RANKS = 1 << 20


@dataclass(frozen=True)
class RankLog:
    """A log file, and the prefix of its lines if several logs are shown."""

    path: Path
    prefix: str = ""


def find_attempt(run: RunDirectory, number: str | None) -> Attempt | None:
    """Return the attempt with this number, else the newest; None before the first.

    Raises RequestError if there is no attempt with this number.
    """
    attempts = run.attempts()
    if number is None:
        return attempts[-1] if attempts else None
    wanted = number.zfill(3)
    found = next((each for each in attempts if each.name == wanted), None)
    if found is None:
        hint = f"Its attempts: {', '.join(each.name for each in attempts) or 'none yet'}."
        raise RequestError(f"the run has no attempt {number!r}", where=str(run.path), hint=hint)
    return found


def choose(run: RunDirectory, attempt: Attempt, rank: str | None) -> list[RankLog]:
    """Choose the logs to show: of the named rank, of `all` ranks, or of the first failing rank, else rank 0.

    If no rank has started, the choice is the log of srun or sbatch, which says why. Raises RequestError for a rank that
    the run does not have.
    """
    world_size = _world_size(run)
    if rank == "all":
        return [RankLog(attempt.log(each), f"[{each}] ") for each in range(world_size)]
    if rank is not None:
        if not re.fullmatch(r"[0-9]{1,9}", rank) or int(rank) >= world_size:
            hint = f"Its ranks are 0 to {world_size - 1}; `--rank all` shows all."
            raise RequestError(f"the run has no rank {rank!r}", where=str(run.path), hint=hint)
        return [RankLog(attempt.log(int(rank)))]
    result: Mapping[str, Any] = attempt.result or {}
    first = result.get("first_failing_rank")
    rank_of_it = first.get("rank") if isinstance(first, dict) else None
    chosen = attempt.log(rank_of_it if type(rank_of_it) is int and 0 <= rank_of_it < world_size else 0)
    if result and not chosen.is_file():
        outside = (attempt.srun_log, attempt.verdict_log, run.sbatch_log)
        return [RankLog(next((path for path in outside if path.is_file() and path.stat().st_size), chosen))]
    return [RankLog(chosen)]


def _world_size(run: RunDirectory) -> int:
    """Return the number of the run's ranks. Raises DiskError for a plan without one."""
    world_size = run.plan.get("world_size")
    if type(world_size) is not int or not 0 < world_size <= _MOST_RANKS:
        raise DiskError("the plan of the run is damaged: it has no number of ranks", where=str(run.plan_file))
    return world_size


def print_logs(
    run: RunDirectory,
    stream: TextIO,
    *,
    rank: str | None = None,
    attempt: str | None = None,
    last: int | None = None,
) -> int:
    """Print the logs, or the last `last` lines of each; return the number of lines.

    Raises RequestError if there is no attempt or no log yet, DiskError for one that cannot be read.
    """
    found = find_attempt(run, attempt)
    if found is None:
        raise RequestError(
            "there is no log yet: the run has not started",
            where=str(run.path),
            hint="`launcher status` shows what it waits for; `launcher logs -f` waits for its start.",
        )
    logs = choose(run, found, rank)
    if not any(log.path.exists() for log in logs):
        raise RequestError("there is no such log yet", where=str(logs[0].path if logs else found.logs))
    return sum(_copy_of(log, stream, last).copy(whole=True) for log in logs)


def follow_logs(
    run: RunDirectory,
    stream: TextIO,
    shell: Shell,
    *,
    rank: str | None = None,
    attempt: str | None = None,
    last: int | None = None,
    say: Callable[[str], None] = lambda _words: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print the logs, or the last `last` lines of each, and follow them until the attempt has ended.

    Waits for the first attempt if none has started; `say` receives messages about what the run waits for. Raises
    RequestError for an unknown attempt or rank, DiskError for a log that cannot be read.
    """
    watch = _RunMonitor(run, shell, clock)
    found = find_attempt(run, attempt)
    if found is None:
        found = _first_attempt(run, watch, say, sleep)
        if found is None:
            return
    copies = [_copy_of(log, stream, last) for log in choose(run, found, rank)]
    while True:
        # Checked before reading, so that everything written before the end is read.
        over = found.result is not None or run.latest_attempt() != found or watch.over()
        for each in copies:
            each.copy(whole=over)
        if over:
            return
        sleep(_READ_INTERVAL_S)


def _copy_of(log: RankLog, stream: TextIO, last: int | None) -> LogCopy:
    """Return the copy of a log, of one that does not exist yet from its beginning. Raises DiskError."""
    try:
        with open_regular(log.path) as file:
            offset = 0 if last is None else begin_of_last(file, last)
    except FileNotFoundError:
        offset = 0
    except OSError as error:
        raise DiskError(f"cannot read the log: {error.strerror}", where=str(log.path)) from error
    return LogCopy(log.path, stream, log.prefix, offset=offset)


def _first_attempt(
    run: RunDirectory, watch: "_RunMonitor", say: Callable[[str], None], sleep: Callable[[float], None]
) -> Attempt | None:
    printed = ""
    while (found := run.latest_attempt()) is None:
        over = watch.over()
        if watch.words and watch.words != printed:
            printed = watch.words
            say(printed)
        if over:
            return run.latest_attempt()
        sleep(_READ_INTERVAL_S)
    return found


@dataclass
class _RunMonitor:
    """Monitors whether a run has ended, with a query now and then."""

    run: RunDirectory
    shell: Shell
    clock: Callable[[], float]
    words: str = ""
    _next: float = float("-inf")

    def over(self) -> bool:
        now = self.clock()
        if now < self._next:
            return False
        self._next = now + _STATUS_INTERVAL_S
        statuses, _ = status_of([self.run], self.shell)
        self.words = " ".join(each for each in (statuses[0].phase.value, statuses[0].detail) if each)
        return statuses[0].phase.over
