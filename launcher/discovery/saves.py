"""How long the saves of earlier attempts of a run took."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.contract.files import read_lines
from launcher.contract.validation import is_number


def longest_save_s(timelines: Iterable[Path]) -> float | None:
    """Return the seconds of the longest save in these files timeline.jsonl; None where none was measured."""
    found: list[float] = []
    for path in timelines:
        try:
            lines = read_lines(path)
        except OSError:
            continue  # an estimate: the other files count
        found += [seconds for line in lines if (seconds := _seconds(line, lines)) is not None]
    return max(found, default=None)


def _seconds(line: dict[str, Any], lines: list[dict[str, Any]]) -> float | None:
    """Return how long the save of an event took; an asynchronous one until its checksums began."""
    if line.get("event") != "save" or not is_number(line.get("time")):
        return None
    blocked_s = float(line["seconds"]) if is_number(line.get("seconds")) else 0.0
    for later in lines:
        if later.get("event") == "checksums" and later.get("iteration") == line.get("iteration"):
            if is_number(later.get("time")) and is_number(later.get("seconds")):
                return max(blocked_s, blocked_s + float(later["time"] - later["seconds"] - line["time"]))
            break
    return blocked_s
