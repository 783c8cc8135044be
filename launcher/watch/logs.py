"""Logs of ranks, printed or followed."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import Shell
from launcher.contract.files import open_regular, read_object
from launcher.rundir import Attempt, RunDirectory
from launcher.watch.tail import LogCopy, begin_of_last

_READ_INTERVAL_S = 0.25
_STATUS_INTERVAL_S = 5.0
"""Interval of queries whether an attempt without a verdict still runs."""


_DECISION_S = 60.0
"""How long a job may take from its verdict to the requeue that the verdict leads to."""

_MOST_RANKS = 1 << 20


_ITERATION = re.compile(r"\biteration +[0-9]+/ *[0-9]+ \|")
"""What Megatron writes for each iteration, with the loss, on the last rank alone."""


@dataclass(frozen=True)
class RankLog:
    """A log file, the prefix of its lines if several logs are shown, and which of its lines are."""

    path: Path
    prefix: str = ""
    only: re.Pattern[str] | None = None


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

    Beside rank 0 stand the lines of the `last` rank about iterations, which have the loss. If no rank has started, the
    choice is the log of srun or sbatch, which says why. Raises RequestError for a rank that the run does not have.
    """
    world_size = _world_size(run)
    if rank == "last":
        rank = str(world_size - 1)
    if rank == "all":
        return [RankLog(attempt.log(each), f"[{each}] ") for each in range(world_size)]
    if rank is not None:
        if not re.fullmatch(r"[0-9]{1,9}", rank) or int(rank) >= world_size:
            hint = f"Its ranks are 0 to {world_size - 1}; `--rank all` shows all, `--rank last` the last."
            raise RequestError(f"the run has no rank {rank!r}", where=str(run.path), hint=hint)
        return [RankLog(attempt.log(int(rank)))]
    result: Mapping[str, Any] = attempt.result or {}
    first = result.get("first_failing_rank")
    rank_of_it = first.get("rank") if isinstance(first, dict) else None
    chosen = attempt.log(rank_of_it if type(rank_of_it) is int and 0 <= rank_of_it < world_size else 0)
    if result and not chosen.is_file():
        outside = (attempt.srun_log, attempt.verdict_log, run.sbatch_log)
        return [RankLog(next((path for path in outside if path.is_file() and path.stat().st_size), chosen))]
    last = world_size - 1
    if chosen != attempt.log(0) or not last:
        return [RankLog(chosen)]
    return [RankLog(chosen), RankLog(attempt.log(last), f"[{last}] ", _ITERATION)]


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
    """Print the logs, or the last `last` lines of each, and follow them until the run ends, over all further attempts.

    With `attempt` it ends with that one. `say` receives messages about what the run waits for, before the first attempt
    and between two, and in the end how it ended. Raises RequestError for an unknown attempt or rank, DiskError for a
    log that cannot be read.
    """
    watch = _RunMonitor(run, shell, clock)
    found = find_attempt(run, attempt)
    if found is None:
        found = _next_attempt(run, None, watch, say, sleep)
    while found is not None:
        logs = choose(run, found, rank)
        copies = [_copy_of(log, stream, last, alternating=len(logs) > 1) for log in logs]
        while True:
            # Checked before reading, so that everything written before the end is read.
            over = found.result is not None or run.latest_attempt() != found or watch.over()
            for each in copies:
                each.copy(whole=over)
            if over:
                break
            sleep(_READ_INTERVAL_S)
        if attempt is not None:
            return
        found, last = _next_attempt(run, found, watch, say, sleep), None
    say(watch.words)


def _copy_of(log: RankLog, stream: TextIO, last: int | None, *, alternating: bool = False) -> LogCopy:
    """Return the copy of a log, of one that does not exist yet from its beginning. Raises DiskError."""
    try:
        with open_regular(log.path) as file:
            offset = 0 if last is None else begin_of_last(file, last)
    except FileNotFoundError:
        offset = 0
    except OSError as error:
        raise DiskError(f"cannot read the log: {error.strerror}", where=str(log.path)) from error
    by_lines = alternating or bool(log.prefix)
    return LogCopy(log.path, stream, by_lines=by_lines, prefix=log.prefix, only=log.only, offset=offset)


def _next_attempt(
    run: RunDirectory,
    ended: Attempt | None,
    watch: "_RunMonitor",
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Attempt | None:
    """Wait for the attempt after one that has ended, or for the first; None where the run is over without one."""
    watch.look_again()
    result: Mapping[str, Any] = (ended.result if ended is not None else None) or {}
    finished = result.get("outcome") == "finished"
    until = watch.clock() + (_DECISION_S if ended is not None and not finished and _goes_on(run, ended) else 0.0)
    printed = ""
    while (newest := run.latest_attempt()) == ended:
        over = watch.over()
        if finished or (over and watch.clock() >= until):
            newest = run.latest_attempt()
            return None if newest == ended else newest
        if watch.words and watch.words != printed and not over:
            printed = watch.words
            say(printed if ended is None else f"attempt {ended.name} has ended; {printed}")
        sleep(_READ_INTERVAL_S)
    if ended is not None and newest is not None:
        say(f"attempt {newest.name} starts")
    return newest


def _goes_on(run: RunDirectory, ended: Attempt) -> bool:
    """Return whether another attempt may follow by itself: the job decides that some time after its verdict."""
    from launcher.contract.next_attempt import read_next

    options = (read_object(run.argv_file) or {}).get("options")
    decided = read_next(ended)
    return isinstance(options, dict) and bool(options.get("keep_going")) and (not decided or decided["action"] != "end")


@dataclass
class _RunMonitor:
    """Monitors whether a run has ended, with a query now and then."""

    run: RunDirectory
    shell: Shell
    clock: Callable[[], float]
    words: str = ""
    """The run's status when it was last asked for, in words."""
    _next: float = float("-inf")
    _over: bool = False

    def look_again(self) -> None:
        """Ask at the next call."""
        self._next, self._over = float("-inf"), False

    def over(self) -> bool:
        """Return whether the run has ended, as far as it is known from the last query."""
        now = self.clock()
        if now < self._next:
            return self._over
        self._next = now + _STATUS_INTERVAL_S
        from launcher.watch.status import status_of
        from launcher.watch.status_table import detail

        statuses, answer = status_of([self.run], self.shell)
        words = (statuses[0].phase.value, detail(statuses[0], answer.asked_at))
        self.words = " ".join(each for each in words if each)
        self._over = statuses[0].phase.over
        return self._over
