"""Which run a key of `submit --once` belongs to: a file for each key, `<run root>/.once-<uid>/<digest>.jsonl`.

A line claims the key for one submission before anything is made for it; another line releases it where Slurm has
refused that submission. The first claim that is not released counts, also on a file system without locks.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from launcher._util.errors import DiskError
from launcher._util.ownership import require_trusted
from launcher.contract import files
from launcher.contract.validation import problems


class Claim(TypedDict):
    """The submission that a key belongs to, and what was asked for."""

    key: str
    run_dir: str
    run_id: str
    nonce: str
    token: str
    request: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of each file of the user's below code/."""


class _Event(TypedDict):
    time: float
    event: Literal["claimed", "submitted", "released"]
    token: str


class _Line(_Event, total=False):
    claim: Claim


@dataclass(frozen=True)
class KeyFile:
    """The file of a key."""

    path: Path

    @classmethod
    def of(cls, run_root: Path, key: str) -> "KeyFile":
        """Return the file of this user's key below a run root, whether it exists or not."""
        directory = run_root / f".once-{os.geteuid()}"
        return cls(directory / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.jsonl")

    def make_directory(self) -> None:
        """Make the directory of the file, for this user alone. Raises DiskError, RequestError for another user's."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_trusted(self.path.parent, shared=False, hint="Remove it, or use another run root.")
        except OSError as error:
            raise DiskError(f"cannot record the key of --once: {error.strerror}", where=str(self.path)) from error

    def claim(self) -> Claim | None:
        """Return the claim that counts; None where the key is free. Raises DiskError."""
        found: Claim | None = None
        for line in self._lines():
            if line["event"] == "claimed":
                found = found or line.get("claim")
            elif line["event"] == "released" and found and found["token"] == line["token"]:
                found = None
        return found

    def was_submitted(self, claim: Claim) -> bool:
        """Return whether the job of the claim was once seen in Slurm. Raises DiskError."""
        return any(line["event"] == "submitted" and line["token"] == claim["token"] for line in self._lines())

    def add(self, claim: Claim) -> Claim:
        """Claim the key and return the claim that counts, which is another one's where that came first."""
        self._append({"event": "claimed", "token": claim["token"], "claim": claim})
        return self.claim() or claim

    def note_submitted(self, claim: Claim) -> None:
        """Record that Slurm has the job of the claim. Raises DiskError."""
        if not self.was_submitted(claim):
            self._append({"event": "submitted", "token": claim["token"]})

    def release(self, claim: Claim) -> None:
        """Give the key back: nothing was submitted for it. Raises DiskError."""
        self._append({"event": "released", "token": claim["token"]})

    def _append(self, values: dict[str, Any]) -> None:
        try:
            files.append_line(self.path, {"time": round(time.time(), 3), **values}, sync=True)
        except OSError as error:
            raise DiskError(f"cannot record the key of --once: {error.strerror}", where=str(self.path)) from error

    def _lines(self) -> list[_Line]:
        try:
            lines = files.read_lines(self.path)
        except OSError as error:
            raise DiskError(f"cannot read the key of --once: {error.strerror}", where=str(self.path)) from error
        return [cast(_Line, line) for line in lines if not any(problems(line, _Line, unknown_keys=True))]
