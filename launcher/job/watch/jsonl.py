"""Files of JSON lines that a run appends to while it goes on."""

import json
import math
import os
from pathlib import Path
from typing import Any


class Lines:
    """A file of JSON lines with one writer, open for as long as the process lives.

    Each line goes to the kernel in one appending write, so a killed process leaves no half one behind.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record. Numbers that JSON lacks (NaN, infinity) become null, by name in `not_finite`."""
        bad = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
        clean = {**record, **dict.fromkeys(bad), **({"not_finite": bad} if bad else {})}
        os.write(self._descriptor, (json.dumps(clean) + "\n").encode())
