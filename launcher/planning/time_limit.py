"""How long before the end of its job a run is asked to save and to stop, and Slurm's notice for that."""

import re
from collections.abc import Sequence

from launcher.contract.patterns import later

MARGIN_S = 30
"""Besides the save: the iteration that runs, the end of the ranks, the verdict."""

_UNMEASURED_S = 120
"""Where no save of the run was measured."""

_EARLY_S = 60
"""Slurm may send the notice up to so many seconds too early. Source: sbatch(1), --signal."""

_SLURM_DEFAULT_S = 60
"""The time of a notice without `@TIME`. Source: sbatch(1), --signal."""

_LONGEST_S = 65535
"""Source: sbatch(1), --signal."""

_NOTICE = later(r"(?:[A-Z]+:)*[A-Z0-9+]+(?:@(?P<seconds>\d+))?", re.IGNORECASE)


def stop_seconds(save_s: float | None) -> int:
    """Return how many seconds before the end the ranks are asked to stop; `save_s` is the longest measured save."""
    return MARGIN_S + (_UNMEASURED_S if save_s is None else round(1.5 * save_s))


def notice(stop_s: int, limit: str | None) -> str:
    """Return the value of sbatch's --signal: early enough for sbatch.sh to look up the end again and to wait for it.

    `limit` is the time limit as the user wrote it; the notice comes in the second half of a known one.
    """
    seconds, limit_s = min(stop_s + _EARLY_S, _LONGEST_S), limit_seconds(limit)
    return f"B:USR1@{seconds if limit_s is None else max(1, min(seconds, limit_s // 2))}"


def stop_seconds_of_notice(value: str) -> int | None:
    """Return the seconds that a user's own --signal asks for; None for a value that is not a notice's."""
    match = _NOTICE.fullmatch(value)
    return int(match["seconds"] or _SLURM_DEFAULT_S) if match else None


def limit_seconds(text: str | None) -> int | None:
    """Return the seconds of a time limit in sbatch's notation; None for no limit, or one that is not known.

    That is minutes, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`. Source: sbatch(1), --time.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text or "")
    if match is None:
        return None
    days, *parts = (None if part is None else int(part) for part in match.groups())
    numbers: Sequence[int] = [part for part in parts if part is not None]
    # After days the first number is hours; without them one number is minutes, two are minutes and seconds.
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return (days or 0) * 86400 + sum(number * unit for number, unit in zip(numbers, units, strict=False))
