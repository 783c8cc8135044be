"""Progress of long work for people: a bar and what the programs write on a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from launcher._util.progress_bar import progress_bar
from launcher._util.tables import safe
from launcher.cli.output import coloured, info, warn
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from launcher.contract.events import Unit

_PLAIN_S = 10.0
"""Between two plain lines of progress, which are read later, in a log."""


@dataclass
class TerminalProgress:
    """A Progress (launcher/api/progress.py) that writes to standard error."""

    quiet: bool = False
    """Leave out what the programs write."""
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _bar: Any = None
    _task: Any = None
    _stage: str = ""
    _printed: float = 0.0

    def __enter__(self) -> "Self":
        if self.stream.isatty():
            self._bar = progress_bar(self.stream)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def info(self, text: str) -> None:
        """Print a sentence."""
        info(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        warn(text)

    def stage(self, text: str) -> None:
        """Begin a new part of the work."""
        if text == self._stage:
            return
        self._stage, self._printed = text, time.monotonic()
        if self._bar is None:
            self._print(text)
            return
        if self._task is not None:
            self._bar.update(self._task, numbers="")
            self._bar.stop_task(self._task)
        self._task = self._bar.add_task(text, total=None, numbers="")

    def line(self, text: str) -> None:
        """Print a line that a program wrote."""
        if self.quiet or not text.strip():
            return
        if self._bar is None:
            self._print(f"  {text}")
        else:
            self._bar.console.print(f"  {safe(text)}", markup=False, highlight=False, style="dim", soft_wrap=True)

    def progress(self, done: int, total: int | None, unit: "Unit") -> None:
        """Show how far the stage is."""
        numbers = _numbers(done, total, unit)
        if self._bar is not None:
            if self._task is None:
                self.stage("working")
            self._bar.update(self._task, completed=done, total=total, numbers=numbers)
        elif time.monotonic() - self._printed >= _PLAIN_S:
            self._printed = time.monotonic()
            self._print(f"{self._stage}: {numbers}")

    def _print(self, text: str) -> None:
        self.stream.write(coloured(safe(text), "dim", self.stream) + "\n")
        self.stream.flush()


def _numbers(done: int, total: int | None, unit: "Unit") -> str:
    if unit == "%":
        return f"{done} %"
    if unit == "B":
        return bytes_text(done) if total is None else f"{bytes_text(done)} of {bytes_text(total)}"
    return f"{done} {unit}" if total is None else f"{done} of {total} {unit}"
