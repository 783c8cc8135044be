"""The base of errors that both halves show to the user."""

from typing import Optional


class ExplainedError(Exception):
    """An error with a remedy.

    `message` says what is wrong, `where` names the place (file and line, option, key), `hint` says what to do.
    """

    hint_indent = ""

    def __init__(self, message: str, *, where: Optional[str] = None, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n{self.hint_indent}{self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"
