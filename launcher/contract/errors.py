"""The base of errors that both halves show to the user."""

import sys
from types import FrameType
from typing import Optional


class ExplainedError(Exception):
    """An error with a remedy.

    `message` says what is wrong, `where` names the place (file and line, option, key), `hint` says what to do. `id` is
    the function that made it, `discovery.recipe.read_recipe`: `launcher help ID` explains its messages.
    """

    hint_indent = ""

    def __init__(self, message: str, *, where: Optional[str] = None, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.id = _made_in(sys._getframe(1))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n{self.hint_indent}{self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"


_NO_FUNCTIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>")


def _made_in(frame: Optional[FrameType]) -> str:
    """Return the id of an error that is made in `frame`, or in the constructor of a derived class there."""
    while frame is not None and (frame.f_code.co_name == "__init__" or frame.f_code.co_name in _NO_FUNCTIONS):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    module = str(frame.f_globals.get("__name__", "")).partition("launcher.")[2]
    return f"{module}.{frame.f_code.co_name.lstrip('_').strip('<>')}"
