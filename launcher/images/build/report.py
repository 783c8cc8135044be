"""Progress of long work, told to whoever shows it: a terminal, a file, nobody. No terminal is known here."""

import re
from collections.abc import Callable
from typing import Literal, Protocol

Unit = Literal["B", "%", "files", "tensors"]

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 1 << 16  # of a line without an end


class Report(Protocol):
    """Is told how far the work is."""

    def stage(self, text: str) -> None:
        """A new part of the work begins: `building with podman`."""
        ...

    def line(self, text: str) -> None:
        """A line of a program's own words."""
        ...

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """How much of the stage is done; `total` is None where nobody knows."""
        ...


class NullReport:
    """Tells nobody."""

    def stage(self, text: str) -> None:
        """See `Report.stage`."""

    def line(self, text: str) -> None:
        """See `Report.line`."""

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """See `Report.progress`."""


class LineSplitter:
    """Cuts the pieces that a program writes into lines: for `Shell.stream`.

    Carriage returns end a line, too: a progress bar is one line after another. `take` is given each line without its
    end and without the colours of a terminal, empty lines left out.
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = {"out": "", "err": ""}

    def __call__(self, name: Literal["out", "err"], text: str) -> None:
        """Take a piece of what was written to one of the two streams."""
        *lines, self._rest[name] = re.split(r"[\r\n]", self._rest[name] + text)
        self._rest[name] = self._rest[name][-_LONGEST:]
        for line in lines:
            self._pass_on(line)

    def end(self) -> None:
        """Pass on what had no end of line."""
        for name, rest in self._rest.items():
            self._rest[name] = ""
            self._pass_on(rest)

    def _pass_on(self, line: str) -> None:
        if plain := _COLOURS.sub("", line).rstrip():
            self._take(plain)
