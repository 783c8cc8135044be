"""A rank's record of its capture, `profiles/STEM.record.json` (see launcher/contract/profiles.py)."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ...contract.files import write_json
from ...contract.profiles import EXTENSIONS, RECORD, stem
from ...contract.records.captures import CaptureFacts, CaptureRecord, CaptureState
from ..rank import Rank


@dataclass
class Record:
    """State of one rank's capture; written at each change, so that even a rank that is killed leaves it.

    `began_at` is the step at which this attempt entered the loop.
    """

    directory: Path
    stem: str
    extension: str
    facts: CaptureFacts
    window: tuple[int, int]
    state: CaptureState = "waiting"
    began_at: Optional[int] = None
    steps: list[int] = field(default_factory=list)
    error: Optional[str] = None
    bytes: Optional[int] = None
    seconds: Optional[float] = None
    """Duration of stopping and saving."""

    @property
    def file(self) -> Path:
        """Return the path of the profiler's own file."""
        return self.directory / f"{self.stem}.{self.extension}"

    def write(self) -> None:
        """Write the record atomically."""
        content: CaptureRecord = {
            "version": 1,
            **self.facts,
            "time": time.time(),
            "window": list(self.window),
            "state": self.state,
            "began_at": self.began_at,
            "steps": self.steps,
            "error": self.error,
            "file": self.file.name,
            "bytes": self.bytes,
            "seconds": self.seconds,
        }
        write_json(self.directory / f"{self.stem}{RECORD}", content)


def record_of(
    rank: Rank, options: Mapping[str, Any], window: tuple[int, int], environ: Mapping[str, str] = os.environ
) -> Record:
    """Return the record of a rank's capture that has not begun."""
    name, job = str(options["name"]), environ.get("SLURM_JOB_ID") or "local"
    return Record(
        directory=rank.paths.profiles,
        stem=stem(name, job, rank.attempt, rank.node_rank, rank.rank),
        extension=str(options.get("extension") or EXTENSIONS[name]),
        facts={
            "profiler": name,
            "rank": rank.rank,
            "node": rank.node_rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": job,
            "attempt": rank.attempt,
        },
        window=window,
    )
