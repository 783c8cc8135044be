"""Live progress of a run: a bar on a terminal, otherwise a line now and then."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from launcher._util.progress_bar import progress_bar
from launcher.rundir import Attempt, RunDirectory
from launcher.slurm.poller import Poller
from launcher.slurm.queue import Job
from launcher.watch.outside import outside_words
from launcher.watch.progress_state import AttemptProgress, advance, describe, numbers
from launcher.watch.run_state import Start, current_attempt, newest_start
from launcher.watch.tail import FileTail

if TYPE_CHECKING:
    from typing_extensions import Self

_READ_INTERVAL_S = 0.5
"""Interval of reading the files, to spare a shared file system."""
_STILL_S = 30.0
"""Time after which a phase before the first iteration is named again: importing Megatron takes as long on a laptop."""
_FAR_S = 300 * 24 * 3600.0


@dataclass
class Follower:
    """Follows the newest attempt of a run, from one attempt to the next.

    Call `tick` at any rate, and `say` to print a line in between. With a `poller` of the run's job, the time before the
    first attempt is explained as well.
    """

    run: RunDirectory
    poller: Poller | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    every_s: float = 10.0
    """Minimum time between plain lines in seconds; the first and the last iteration are always printed."""
    clock: Callable[[], float] = time.time
    progress: AttemptProgress = field(default_factory=AttemptProgress)
    _attempt: Attempt | None = None
    _start: Start | None = None
    _tails: tuple[FileTail, ...] = ()
    _read_at: float = 0.0
    _printed_at: float = 0.0
    _waits_since: float = 0.0
    _last: str = ""
    _bar: Any = None
    _task: Any = None

    def __enter__(self) -> "Self":
        self._start = newest_start(self.run)
        if self.stream.isatty():
            self._bar = progress_bar(self.stream, counted=True)
            self._task = self._bar.add_task("starting", total=None, numbers="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read_at = 0.0
        self.tick()
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def tick(self) -> None:
        """Read new lines of the attempt and show its progress; does nothing if called again too soon."""
        now = self.clock()
        if now - self._read_at < _READ_INTERVAL_S:
            return
        self._read_at = now
        self._find_attempt()
        before = self.progress
        for tail in self._tails:
            self.progress = advance(self.progress, tail.read())
        if self._bar is not None:
            self._draw()
            self._bar.refresh()
        else:
            self._print_progress(before, now)

    def waiting_for(self) -> str:
        """Describe what the run waits for before its first iteration."""
        if self._attempt is not None:
            said = outside_words(self.run, self._attempt) if self.progress.time is None else None
            return " | ".join(each for each in (describe(self.progress), said) if each)
        answer = self.poller.poll() if self.poller else None
        job = next(iter(answer.jobs.values()), None) if answer else None
        if self.poller is not None and self.poller.unknown_since is not None:
            since = time.strftime("%H:%M:%S", time.localtime(self.poller.unknown_since))
            return f"Slurm has not answered since {since}"
        return "starting" if job is None else queued(job, self.clock())

    def _find_attempt(self) -> None:
        newest = current_attempt(self.run, self._start)
        if newest is None or newest == self._attempt:
            return
        if self._attempt is not None:
            self.say(f"attempt {newest.name} starts")
        self._attempt = newest
        self.progress = AttemptProgress()
        self._tails = (FileTail(newest.timeline), FileTail(newest.metrics))

    def _draw(self) -> None:
        state = self.progress
        if state.iteration is None:
            self._bar.update(self._task, description=self.waiting_for(), total=None)
            return
        total = state.train_iters
        self._bar.update(
            self._task, description="iteration", completed=state.iteration, total=total, numbers=numbers(state)
        )

    def _print_progress(self, before: AttemptProgress, now: float) -> None:
        state = self.progress
        if state.iteration is None:
            words = self.waiting_for()
            if words != self._last and (now - self._printed_at >= 1.0 or not self._last):
                self._print(words, now)
                self._waits_since = now
            elif self._attempt is not None and words == self._last and now - self._printed_at >= _STILL_S:
                self._printed_at = now
                self.say(f"{words}, for {now - self._waits_since:.0f} s")
            return
        news = state.iteration != before.iteration
        first = before.iteration is None
        last = state.iteration == state.train_iters or (state.ended is not None and before.ended is None)
        if (news and (first or now - self._printed_at >= self.every_s)) or last:
            self._print(describe(state), now)

    def _print(self, words: str, now: float) -> None:
        if words == self._last:
            return
        self._last, self._printed_at = words, now
        self.say(words)


def queued(job: Job, now: float) -> str:
    """Describe a job before its first attempt."""
    if not job.state.waiting:
        return f"job {job.id} is {job.state.value.lower()}{f' on {job.nodes}' if job.nodes else ''}"
    words = f"queued{f' ({job.reason})' if job.reason else ''}"
    if job.start is not None and 0 <= job.start - now < _FAR_S:
        words += f", expected to start at {time.strftime('%H:%M on %Y-%m-%d', time.localtime(job.start))}"
    return words
