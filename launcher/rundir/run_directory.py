"""The paths of a run and of its attempts."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, RequestError
from launcher.rundir.journal import Journal


def write_atomically(path: Path, text: str, *, mode: int = 0o666, encoding: str | None = None) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename. `mode` is subject to the umask.

    Raises DiskError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding=encoding) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(f"cannot write {path.name}: {error.strerror}", where=str(path.parent)) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none yet. Raises DiskError for anything else in its place."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {path.name}: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise DiskError(f"{path.name} holds no JSON object", where=str(path))
    return value


@dataclass(frozen=True)
class Attempt:
    """One execution of a run: `attempts/NNN` in its directory."""

    path: Path

    @property
    def name(self) -> str:
        """Its number, as in its path: `000`."""
        return self.path.name

    @property
    def logs(self) -> Path:
        """The directory of `rank-NNNN.log` and `srun.log`."""
        return self.path / "logs"

    @property
    def ranks(self) -> Path:
        """The directory of what each rank said of its end."""
        return self.path / "ranks"

    @property
    def metrics(self) -> Path:
        """One JSON line for each iteration."""
        return self.path / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        """One JSON line for each phase of the attempt."""
        return self.path / "timeline.jsonl"

    @property
    def stop(self) -> Path:
        """The file whose existence asks the ranks to save and stop."""
        return self.path / "stop"

    @property
    def result(self) -> dict[str, Any] | None:
        """How the attempt ended; None while it has not."""
        return read_json(self.path / "result.json")

    def log(self, rank: int) -> Path:
        """The log of one rank."""
        return self.logs / f"rank-{rank:04d}.log"


@dataclass(frozen=True)
class RunDirectory:
    """`<run root>/<name>/<run id>` with everything that is known of a run."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "RunDirectory":
        """The run directory at `path`. Raises RequestError if there is none."""
        if not (path / "plan.json").is_file():
            raise RequestError("this is no run directory: it holds no plan.json", where=str(path))
        return cls(path.resolve())

    @property
    def journal(self) -> Journal:
        """What the launcher did for this run."""
        return Journal(self.path / "journal.jsonl")

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was written."""
        plan = read_json(self.path / "plan.json")
        if plan is None:
            raise RequestError("this is no run directory: it holds no plan.json", where=str(self.path))
        return plan

    @property
    def code(self) -> Path:
        """The snapshot of code that the run executes."""
        return self.path / "code"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go unless the user says otherwise."""
        return self.path / "checkpoints"

    def attempt(self, number: int) -> Attempt:
        """The attempt of this number, whether it exists or not."""
        return Attempt(self.path / "attempts" / f"{number:03d}")

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        directory = self.path / "attempts"
        if not directory.is_dir():
            return []
        return [Attempt(entry) for entry in sorted(directory.iterdir()) if entry.name.isdigit()]

    def latest_attempt(self) -> Attempt | None:
        """The newest attempt; None before the first."""
        return next(reversed(self.attempts()), None)

    def begin_attempt(self) -> Attempt:
        """Create the next attempt's directory; of two processes that try at once each gets its own.

        Raises DiskError.
        """
        number = len(self.attempts())
        while True:
            attempt = self.attempt(number)
            try:
                attempt.path.mkdir(parents=True)
                attempt.logs.mkdir()
                attempt.ranks.mkdir()
                self._point_latest_at(attempt)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise DiskError(f"cannot create the attempt: {error.strerror}", where=str(attempt.path)) from error
            else:
                return attempt

    def _point_latest_at(self, attempt: Attempt) -> None:
        temporary = self.path / f".latest.{attempt.name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("attempts") / attempt.name)
        temporary.replace(self.path / "latest")
