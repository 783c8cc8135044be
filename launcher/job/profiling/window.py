"""The window of steps that is captured: opens and closes a profiler from Bridge's callbacks.

Step N is the iteration that begins when N are done: what Bridge's `profile_step_start` and `profile_step_end` count
(training/train.py, 0.6.2: it compares train_state.step before the iteration with the first, after it with the second),
so `10:12` are the iterations that its log calls 11 and 12. A resumed run goes on counting.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Optional, Protocol

from .record import Record


class Profiler(Protocol):
    """What a profiler has to have; a user's own class is made without arguments.

    It may also have `prepare()`, called one step before `start()` where there is such a step, `step(number)`, a context
    manager around each step of the window that labels it, and `extension`, the ending of its file's name.
    """

    def start(self) -> None:
        """Begin to record; the first step of the window is about to begin."""

    def stop(self) -> None:
        """Record no more; called once after `start`."""

    def save(self, path: Path) -> None:
        """Write what was recorded to `path`, which does not exist yet."""


class Window:
    """One profiler from step `start` until before step `stop`, on one rank.

    What goes wrong in a profiler is recorded and told, and ends no training. Outside the window a step costs two calls
    that compare a number.
    """

    def __init__(self, profiler: Profiler, record: Record, *, saves: bool = True) -> None:
        self.start, self.stop = record.window
        self.record = record
        self._profiler = profiler
        self._saves = saves
        """False where another process writes the file (nsys)."""
        self.ends_at_once = bool(getattr(profiler, "ends_at_once", False))
        """The process has to end without Python's own clean-up, see builtin.VizTracer."""
        self._open = self._done = False
        self._label: Optional[AbstractContextManager[Any]] = None

    def attach(self, manager: Any) -> None:
        """Register with Bridge's CallbackManager (0.3.0 and later), or patch Bridge's own hooks where there is none."""
        self.record.write()
        if manager is None:
            hook_without_callbacks(self)
            return
        for name in ("train_start", "train_step_start", "train_step_end", "train_end"):
            manager.register(f"on_{name}", getattr(self, name))

    def train_start(self, context: Any) -> None:
        """The loop is about to begin, at the first step or where a checkpoint continues."""
        self.begin(int(context.state.train_state.step))

    def train_step_start(self, context: Any) -> None:
        """A step is about to begin."""
        if not self._done:
            self.before(int(context.state.train_state.step))

    def train_step_end(self, context: Any) -> None:
        """A step has ended; Bridge counts it after its callbacks."""
        if self._open:
            self.after(int(context.state.train_state.step))

    def train_end(self, _context: Any) -> None:
        """The loop has ended by itself."""
        self.finish(True)

    def begin(self, step: int) -> None:
        """The loop begins at `step`; a window that lies before it is over."""
        self.record.began_at = step
        if step > self.start:
            self.record.state, self._done = "passed", True
            _say(f"the window {self.start}:{self.stop} lies before step {step}, where this attempt begins")
        self.record.write()

    def before(self, step: int) -> None:
        """Before `step`: open the window, or close it where its last step was skipped."""
        if self._open and step >= self.stop:
            self._close()
        elif not self._open and self.start <= step < self.stop:
            self._guarded(self._profiler.start)
            if not self._done:
                self._open, self.record.state = True, "capturing"
                self.record.write()
        elif step == self.start - 1 and hasattr(self._profiler, "prepare"):
            self._guarded(self._profiler.prepare)
        if self._open and hasattr(self._profiler, "step"):
            self._guarded(lambda: self._enter(self._profiler.step(step)))  # type: ignore[attr-defined]

    def after(self, step: int) -> None:
        """After `step`: count it, and close the window if it was the last."""
        self._guarded(self._leave)
        self.record.steps.append(step)
        if step + 1 >= self.stop and self._open:
            self._close()

    def finish(self, save: bool) -> None:
        """The rank leaves the loop: save what there is, unless it failed (a GPU that hangs would never be done)."""
        if self._open and save:
            self._close()
        elif self._open:
            with contextlib.suppress(OSError):
                self.record.write()
        self._done = True

    def _close(self) -> None:
        started = time.monotonic()
        self._guarded(self._leave)
        self._open = False
        self._guarded(self._profiler.stop)
        if self._saves:
            self._guarded(self._save)
        if not self._done:
            self.record.state, self._done = "saved" if self._saves else "captured", True
            self.record.seconds = time.monotonic() - started
            self.record.write()
            if self._saves:
                _say(f"saved profiles/{self.record.file.name}, {self.record.bytes} bytes")

    def _save(self) -> None:
        if self._done:
            return
        path = self.record.file
        if path.exists():
            raise FileExistsError(f"{path.name} exists already, and nothing is overwritten")
        self._profiler.save(path)
        self.record.bytes = path.stat().st_size

    def _enter(self, label: "AbstractContextManager[Any]") -> None:
        label.__enter__()
        self._label = label

    def _leave(self) -> None:
        label, self._label = self._label, None
        if label is not None:
            label.__exit__(None, None, None)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a profiler's mistake is no reason to end a training run
            self._open, self._done = False, True
            self.record.state = "failed"
            self.record.error = self.record.error or f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):
                self.record.write()
            _say(f"the profiler failed, training goes on: {self.record.error}")


def hook_without_callbacks(window: Window) -> None:
    """For Bridge before 0.3.0, whose pretrain() takes no callbacks: step in where it calls its own profiling.

    `handle_profiling_step` is called before each iteration and `handle_profiling_stop` after it, both by the names that
    training/train.py has imported (0.2.2 to 0.6.2), with the iteration as second argument. There the iteration was
    counted already.
    """
    from megatron.bridge.training import train as loop

    step, stop = loop.handle_profiling_step, loop.handle_profiling_stop

    def before(config: Any, iteration: int, *rest: Any) -> Any:
        if window.record.began_at is None:
            window.begin(iteration)
        if not window._done:
            window.before(iteration)
        return step(config, iteration, *rest)

    def after(config: Any, iteration: int, *rest: Any) -> Any:
        if window._open:
            window.after(iteration - 1)
        return stop(config, iteration, *rest)

    loop.handle_profiling_step, loop.handle_profiling_stop = before, after


def _say(text: str) -> None:
    print(f"profiler: {text}", file=sys.stderr, flush=True)
