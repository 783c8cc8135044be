"""Findings of `launcher doctor`, as the job writes them and the launcher prints them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

VERDICTS = ("ok", "skip", "warn", "fail")
"""From good to bad. `skip` stands for what could not be checked, or does not exist here: unknown is never ok."""


@dataclass(frozen=True)
class Check:
    """A verdict with its name: what was found, and for anything but `ok` why, and what to do."""

    name: str
    verdict: str
    value: str = ""
    """The finding in a few words, for the table."""
    number: Optional[float] = None
    """The same as a number, where it is one."""
    reason: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.name}: {self.verdict!r} is not a verdict ({', '.join(VERDICTS)})")
        if self.verdict != "ok" and not self.reason:
            raise ValueError(f"{self.name}: {self.verdict} without a reason")
        if self.verdict in ("warn", "fail") and not self.remedy:
            raise ValueError(f"{self.name}: {self.verdict} without a remedy")

    def to_dict(self) -> dict[str, Any]:
        """Return the check for a JSON file."""
        return asdict(self)


def ok(name: str, value: str, number: Optional[float] = None) -> Check:
    """Return the check of something that is as it should be."""
    return Check(name, "ok", value, number)


def skip(name: str, reason: str, value: str = "", number: Optional[float] = None) -> Check:
    """Return the check of something that could not be checked, or that has nothing to be compared with."""
    return Check(name, "skip", value, number, reason)


def warn(name: str, value: str, reason: str, remedy: str, number: Optional[float] = None) -> Check:
    """Return the check of something that lets a run start, but may make it slower or less reliable."""
    return Check(name, "warn", value, number, reason, remedy)


def fail(name: str, value: str, reason: str, remedy: str, number: Optional[float] = None) -> Check:
    """Return the check of something that keeps a run from starting here, or from reaching its end."""
    return Check(name, "fail", value, number, reason, remedy)


def from_dict(value: Mapping[str, Any]) -> Check:
    """Return the check that `to_dict` gave. Raises ValueError for anything else."""
    try:
        number = value.get("number")
        return Check(
            name=str(value["name"]),
            verdict=str(value["verdict"]),
            value=str(value.get("value") or ""),
            number=float(number) if isinstance(number, (int, float)) else None,
            reason=str(value.get("reason") or ""),
            remedy=str(value.get("remedy") or ""),
        )
    except KeyError as error:
        raise ValueError(f"this is not a check: it lacks {error}") from error


def worst(verdicts: "list[str] | tuple[str, ...]") -> str:
    """Return the worst of some verdicts; `skip` of none."""
    return max(verdicts, key=VERDICTS.index, default="skip")
