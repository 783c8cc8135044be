"""What one patch of the CPU back end is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One change that lets Megatron run without a GPU.

    `of` names package and version that it was written against, `works_around` what fails without it. `apply` makes
    the change; `fits` looks, before that, whether what it changes is still there in the expected shape; `needed`
    whether the failure is still there.
    """

    name: str
    of: str
    works_around: str
    apply: Callable[[], None]
    fits: Callable[[], bool]
    needed: Callable[[], bool]


def fails(action: Callable[[], object], *errors: type[BaseException]) -> bool:
    """Whether `action` raises one of `errors`: the usual way to see that a patch is still needed."""
    try:
        action()
    except errors:
        return True
    return False
