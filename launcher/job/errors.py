"""The error for a wrong request, inside the job."""

from ..contract.errors import ExplainedError


class UserError(ExplainedError):
    """A wrong request (recipe, argument, override or configuration): nothing was trained.

    `message` is one sentence for the user, `where` the position in the user's file (`file:line`), `hint` what to do.
    """

    hint_indent = "  "


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank; an empty text where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
