"""Overrides as they travel: parsed once, by the launcher, and carried whole through the plan and argv.json to the job.

Of several values of one key the last counts, in the plan as in the job, and the plan says so. Users of Hydra
expect it, and a wrapper script that passes "$@" after values of its own relies on it.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Optional

from .values import Override, parse

if TYPE_CHECKING:
    from .records.request import OverrideRecord


def to_record(override: Override) -> "OverrideRecord":
    """Return the override as argv.json has it.

    A value that JSON would change (NaN, infinity, keys that are not text) is left out; `from_record` parses it again.
    """
    record: OverrideRecord = {"key": override.key, "text": override.text}
    try:
        same = json.loads(json.dumps(override.value, allow_nan=False)) == override.value
    except ValueError:
        same = False
    return {**record, "value": override.value} if same else record


def from_record(record: "OverrideRecord") -> Override:
    """Return the override that argv.json has. Raises Refused for a text that cannot be parsed where it has to be."""
    if "value" in record:
        return Override(record["key"], record["value"], record["text"])
    return parse(record["text"])


def key_of(assignment: str) -> str:
    """Return the key of one KEY=VALUE, without Hydra's `+` and `++`."""
    return assignment.partition("=")[0].lstrip("+").strip()


def last_of_each_key(assignments: Sequence[str]) -> tuple[str, ...]:
    """Return the assignments without those that a later one of the same key replaces.

    A mapping replaces nothing: as in Hydra it is merged into what the key has.
    """
    return tuple(text for text, later in _with_last(assignments) if later is None)


def replaced(assignments: Sequence[str]) -> list[tuple[str, str]]:
    """Return each assignment that a later one replaces, with that one; the same text twice is not worth a word."""
    return [(text, later) for text, later in _with_last(assignments) if later is not None and later != text]


def _with_last(assignments: Sequence[str]) -> list[tuple[str, Optional[str]]]:
    """Pair each assignment with the last later one that replaces it."""
    last: dict[str, str] = {}
    found: list[tuple[str, Optional[str]]] = []
    for text in reversed(assignments):
        found.append((text, last.get(key_of(text))))
        if not text.partition("=")[2].lstrip().startswith("{"):
            last.setdefault(key_of(text), text)
    return found[::-1]


def keys_of(overrides: Iterable[Override]) -> frozenset[str]:
    """Return the keys that the overrides set."""
    return frozenset(override.key for override in overrides)
