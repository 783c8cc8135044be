"""The error for a wrong request, inside the job."""

from typing import Optional


class UserError(Exception):
    """A wrong request (recipe, argument, override or configuration): nothing was trained.

    `message` is one sentence for the user, `where` the position in the user's file (`file:line`), `hint` what to do.
    """

    def __init__(self, message: str, *, where: Optional[str] = None, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"
