"""The user's code in a run, in words: the state of its project, and how much of it travels."""

from collections.abc import Mapping
from typing import Any

_KILO = 1000


def describe(plan: Mapping[str, Any]) -> str | None:
    """Return one line about the code of a plan's plain values; None for a recipe of Megatron Bridge.

    Parts that the record of an older launcher, or a damaged one, does not have are left out.
    """
    source, shipped = plan.get("source"), plan.get("shipped")
    parts = []
    if isinstance(shipped, Mapping) and shipped.get("files"):
        files = shipped["files"]
        parts.append(f"{files} file{'s' if files != 1 else ''} of {_size(shipped.get('bytes'))}")
    if isinstance(source, Mapping):
        commit, branch, changed = source.get("commit"), source.get("branch"), source.get("changed") or ()
        place = f"{str(commit)[:12] if commit else 'no commit yet'}{f' on {branch}' if branch else ''}"
        state = f"{len(changed)} changed file{'s' if len(changed) > 1 else ''}" if changed else "unchanged"
        parts.append(f"{place}, {state}")
    return "; ".join(parts) or None


def _size(size: Any) -> str:
    if not isinstance(size, int):
        return "unknown size"
    if size < _KILO:
        return f"{size} bytes"
    return f"{size / _KILO:.0f} kB" if size < _KILO * _KILO else f"{size / _KILO / _KILO:.1f} MB"
