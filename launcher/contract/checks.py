"""One finding of `launcher doctor`: what the half in the job writes and the half outside prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

VERDICTS = ("ok", "skip", "warn", "fail")
"""From good to bad. `skip` is what could not be looked at, or does not exist here: unknown is never ok."""


@dataclass(frozen=True)
class Check:
    """A verdict with its name: what was found, and for anything but `ok` why, and what to do."""

    name: str
    verdict: str
    value: str = ""
    """What was found, in a few words: it stands in the table."""
    number: Optional[float] = None
    """The same as a number, where it is one."""
    reason: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.name}: {self.verdict!r} is no verdict ({', '.join(VERDICTS)})")
        if self.verdict != "ok" and not self.reason:
            raise ValueError(f"{self.name}: {self.verdict} without a reason")
        if self.verdict in ("warn", "fail") and not self.remedy:
            raise ValueError(f"{self.name}: {self.verdict} without a remedy")

    def to_dict(self) -> dict[str, Any]:
        """The check for a JSON file."""
        return asdict(self)


def ok(name: str, value: str, number: Optional[float] = None) -> Check:
    """It was looked at and is as it should be."""
    return Check(name, "ok", value, number)


def skip(name: str, reason: str, value: str = "", number: Optional[float] = None) -> Check:
    """It could not be looked at, or there is nothing to compare it with."""
    return Check(name, "skip", value, number, reason)


def warn(name: str, value: str, reason: str, remedy: str, number: Optional[float] = None) -> Check:
    """A run will start, and may be slower or less sure than it should be."""
    return Check(name, "warn", value, number, reason, remedy)


def fail(name: str, value: str, reason: str, remedy: str, number: Optional[float] = None) -> Check:
    """A run will not start here, or will not come to its end."""
    return Check(name, "fail", value, number, reason, remedy)


def from_dict(value: Mapping[str, Any]) -> Check:
    """The check that `to_dict` gave. Raises ValueError for anything else."""
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
        raise ValueError(f"no check: it lacks {error}") from error


def worst(verdicts: "list[str] | tuple[str, ...]") -> str:
    """The worst of some verdicts; `skip` of none."""
    return max(verdicts, key=VERDICTS.index, default="skip")
