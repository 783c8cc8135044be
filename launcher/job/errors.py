"""The errors that are shown as one sentence, inside the job."""

from ..contract.errors import ExplainedError
from ..contract.records.ranks import Cause


class UserError(ExplainedError):
    """A wrong request (recipe, argument, override or configuration): nothing was trained.

    `message` is one sentence for the user, `where` the position in the user's file (`file:line`), `hint` what to do.
    """

    hint_indent = "  "
    cause: Cause = "user"


class TransientError(UserError):
    """A failure of something outside the job, such as the hub or a file system, which another attempt need not meet."""

    cause: Cause = "outside"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank; an empty text where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
