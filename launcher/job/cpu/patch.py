"""What one patch of the CPU back end is."""

from collections.abc import Callable
from dataclasses import dataclass

RELEASES = ("0.3.1", "0.6.2")
"""The releases of Megatron Bridge that the patches were written against, with megatron-core 0.16.1 and 0.19.2."""


@dataclass(frozen=True)
class Patch:
    """One change that lets Megatron run without a GPU.

    `of` names the package that it changes, `works_around` what fails without it. `apply` makes the change; `fits`
    looks, before that, whether what it changes is still there in the expected shape; `needed` whether the failure is
    still there. `releases` are the releases of Bridge, with its megatron-core, that have the failure.
    """

    name: str
    of: str
    works_around: str
    apply: Callable[[], None]
    fits: Callable[[], bool]
    needed: Callable[[], bool]
    releases: tuple[str, ...] = RELEASES


def nearest_release(version: str) -> str:
    """That of RELEASES whose patches suit Bridge `version`: the newest that is not newer, else the oldest."""
    found = [release for release in RELEASES if _numbers(release) <= _numbers(version)]
    return found[-1] if found else RELEASES[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:3] if part.isdigit())


def fails(action: Callable[[], object], *errors: type[BaseException]) -> bool:
    """Whether `action` raises one of `errors`: the usual way to see that a patch is still needed."""
    try:
        action()
    except errors:
        return True
    return False
