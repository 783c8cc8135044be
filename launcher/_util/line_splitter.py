"""The output of a program, which comes in pieces, as lines."""

import re
from collections.abc import Callable
from typing import Literal

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 1 << 16  # of a line without an end


class LineSplitter:
    """Splits the output of a program, which comes in pieces, into lines: for `Shell.stream`.

    Carriage returns end a line, too: a progress bar is one line after another. `take` gets each line without its end
    and without the colours of a terminal, empty lines left out.
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = {"out": "", "err": ""}

    def __call__(self, name: Literal["out", "err"], text: str) -> None:
        """Take a piece of the output on one of the two streams."""
        *lines, self._rest[name] = re.split(r"[\r\n]", self._rest[name] + text)
        self._rest[name] = self._rest[name][-_LONGEST:]
        for line in lines:
            self._pass_on(line)

    def end(self) -> None:
        """Pass on the rest, which has no end of line."""
        for name, rest in self._rest.items():
            self._rest[name] = ""
            self._pass_on(rest)

    def _pass_on(self, line: str) -> None:
        if plain := _COLOURS.sub("", line).rstrip():
            self._take(plain)
