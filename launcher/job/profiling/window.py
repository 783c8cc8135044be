"""The window of captured steps: opens and closes a profiler from Bridge's callbacks.

Step N is the iteration that begins when N are done: what Bridge's `profile_step_start` and `profile_step_end` count
(training/train.py, 0.6.2: it compares train_state.step with the first before the iteration, with the second after it),
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
    """Interface of a profiler; a user's own class is made without arguments.

    Optional members: `prepare()`, called one step before `start()` where there is such a step; `step(number)`, a
    context manager around each step of the window that labels it; and `extension`, the suffix of its file's name.
    """

    def start(self) -> None:
        """Start recording; the first step of the window is about to begin."""

    def stop(self) -> None:
        """Stop recording; called once after `start`."""

    def save(self, path: Path) -> None:
        """Write what was recorded to `path`, which does not exist yet."""


class Window:
    """One profiler on one rank, from step `start` until before step `stop`.

    An error in a profiler is recorded and printed, and does not end the training. Outside the window a step costs two
    calls that compare a number.
    """

    def __init__(self, profiler: Profiler, record: Record, *, saves: bool = True) -> None:
        self.start, self.stop = record.window
        self.record = record
        self._profiler = profiler
        self._saves = saves
        """False where another process writes the file (nsys)."""
        self.ends_at_once = bool(getattr(profiler, "ends_at_once", False))
        """Whether the process must end without Python's own clean-up, see builtin.VizTracer."""
        self._open = self._done = False
        self._label: Optional[AbstractContextManager[Any]] = None

    def attach(self, manager: Any) -> None:
        """Register with Bridge's CallbackManager."""
        self.record.write()
        for name in ("train_start", "train_step_start", "train_step_end", "train_end"):
            manager.register(f"on_{name}", getattr(self, name))

    def train_start(self, context: Any) -> None:
        """Handle the beginning of the loop, at the first step or where a checkpoint continues."""
        self.begin(int(context.state.train_state.step))

    def train_step_start(self, context: Any) -> None:
        """Handle the beginning of a step."""
        if not self._done:
            self.before(int(context.state.train_state.step))

    def train_step_end(self, context: Any) -> None:
        """Handle the end of a step, which Bridge counts after its callbacks."""
        if self._open:
            self.after(int(context.state.train_state.step))

    def train_end(self, _context: Any) -> None:
        """Handle the regular end of the loop."""
        self.finish(True)

    def begin(self, step: int) -> None:
        """Record that the loop begins at `step`; a window that lies before it is over."""
        self.record.began_at = step
        if step > self.start:
            self.record.state, self._done = "passed", True
            _say(
                f"nothing is captured: steps {self.start}:{self.stop} lie before step {step}, where this attempt begins"
            )
        self.record.write()

    def before(self, step: int) -> None:
        """Open the window before `step`, or close it where its last step was skipped."""
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
        """Count `step`, and close the window if it was the last."""
        self._guarded(self._leave)
        self.record.steps.append(step)
        if step + 1 >= self.stop and self._open:
            self._close()

    def finish(self, save: bool) -> None:
        """Save what there is when the rank leaves the loop, unless it failed (a hung GPU would block the saving)."""
        if self._open and save:
            self._close()
        elif self._open:
            with contextlib.suppress(OSError):  # the rank's own end still has to be recorded
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
            raise FileExistsError(f"{path.name} exists and is not overwritten")
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
        except Exception as error:  # an error of a profiler must not end the training
            self._open, self._done = False, True
            self.record.state = "failed"
            self.record.error = self.record.error or f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # the line below says it, too
                self.record.write()
            _say(f"the profiler failed (training continues): {self.record.error}")


def _say(text: str) -> None:
    print(f"profiler: {text}", file=sys.stderr, flush=True)
