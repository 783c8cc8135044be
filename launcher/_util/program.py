"""The end of a program, and what is called while it runs."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from launcher.contract.frozen import dataclass

OnText: TypeAlias = Callable[[Literal["out", "err"], str], None]
"""Called with the output of a program as it comes: the stream, and the text."""

OnTick: TypeAlias = Callable[[int], None]
"""Called about five times a second while programs run, with the session of the last one (its pid)."""


@dataclass(frozen=True)
class Result:
    """The end of a program: `status` is its exit status, 128+N where signal N ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
