"""A patch of the CPU back end, and the releases that it is for."""

from collections.abc import Callable
from dataclasses import dataclass

RELEASES = ("0.3.1", "0.6.2")
"""The releases of Megatron Bridge that the patches were written for, with megatron-core 0.16.1 and 0.19.2."""


@dataclass(frozen=True)
class Patch:
    """One change that lets Megatron run without a GPU.

    `of` names the package that it changes, `works_around` the failure without it. `apply` makes the change; `fits`
    checks before whether what it changes still has the expected shape; `needed` whether the failure still occurs.
    `releases` are the releases of Bridge, with its megatron-core, that have the failure.
    """

    name: str
    of: str
    works_around: str
    apply: Callable[[], None]
    fits: Callable[[], bool]
    needed: Callable[[], bool]
    releases: tuple[str, ...] = RELEASES


def nearest_release(version: str) -> str:
    """Return the one of RELEASES whose patches suit Bridge `version`: the newest not newer, else the oldest."""
    found = [release for release in RELEASES if _numbers(release) <= _numbers(version)]
    return found[-1] if found else RELEASES[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:3] if part.isdigit())


def fails(action: Callable[[], object], *errors: type[BaseException]) -> bool:
    """Return whether `action` raises one of `errors`, which usually shows that a patch is still needed."""
    try:
        action()
    except errors:
        return True
    return False
