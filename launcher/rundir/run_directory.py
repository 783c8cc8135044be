"""A run and its attempts on disk: their paths (contract/paths.py), and reading and writing them."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from launcher._util.errors import DiskError, RequestError
from launcher._util.user_paths import exists
from launcher.contract import files
from launcher.contract.paths import ARGV, ATTEMPTS, PLAN, PULLED, SCRIPTS, AttemptPaths, RunPaths, attempt_name
from launcher.rundir.journal import Journal

if TYPE_CHECKING:
    from launcher.contract.records.ranks import StartRecord
    from launcher.contract.records.result import AttemptResult


def write_atomically(path: Path, text: str, *, mode: int = 0o666, exact_mode: bool = False) -> None:
    """Write a whole file or nothing (contract/files.py). Raises DiskError."""
    try:
        files.write_text(path, text, mode=mode, exact_mode=exact_mode)
    except OSError as error:
        raise DiskError(f"cannot write {path.name}: {error.strerror}", where=str(path.parent)) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is none yet. Raises DiskError for anything else in its place."""
    try:
        value = files.parse_json(files.read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DiskError(f"cannot read {path.name}: {reason}", where=str(path)) from error
    if not isinstance(value, dict):
        raise DiskError(f"{path.name} does not hold a JSON object", where=str(path))
    return value


class Attempt(AttemptPaths):
    """One execution of a run: `attempts/NNN` in its directory."""

    @property
    def result(self) -> "AttemptResult | None":
        """How the attempt ended; None while it has not. Raises DiskError."""
        return cast("AttemptResult | None", read_json(self.result_file))

    @property
    def start_record(self) -> "StartRecord | None":
        """The start that it belongs to; None for one that is not under Slurm, or where that cannot be read."""
        from launcher.contract.records.ranks import StartRecord

        try:
            return StartRecord.parse(files.read_text(self.start))
        except (OSError, ValueError):
            return None


class RunDirectory(RunPaths):
    """`<run root>/<name>/<run id>` with everything that is known of a run."""

    @classmethod
    def at(cls, path: Path) -> "RunDirectory":
        """Return the run directory at `path`. Raises RequestError if there is none."""
        run = cls(path)
        if not exists(run.plan_file):  # a damaged one, such as a directory, is still a run's
            raise _not_a_run(path)
        return cls(path.resolve())

    @property
    def journal(self) -> Journal:
        """What the launcher did for this run."""
        return Journal(self.journal_file)

    @property
    def pulled_from(self) -> str | None:
        """HOST:PATH of the run of which `launcher pull` made this copy.

        None for a run of this machine, also for a copy that was continued here.
        """
        source = files.read_object(self.path / PULLED)
        if source is None or source.get("journal") != self._journal_size():
            return None
        return f"{source.get('host')}:{source.get('path')}"

    def note_pulled(self, host: str, path: str, *, checkpoints: bool) -> None:
        """Note of what run this directory is a copy. Raises OSError."""
        source = {"host": host, "path": path, "journal": self._journal_size(), "checkpoints": checkpoints}
        files.write_text(self.path / PULLED, json.dumps(source) + "\n")

    def _journal_size(self) -> int:
        """Return the size in bytes, or 0 where there is none."""
        try:
            return self.journal_file.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was written. Raises RequestError where there is none, DiskError where it cannot be read."""
        plan = read_json(self.plan_file)
        if plan is None:
            raise _not_a_run(self.path)
        return plan

    def attempt(self, number: int) -> Attempt:
        """Return the attempt of this number, whether it exists or not."""
        return Attempt(self.attempt_paths(attempt_name(number)).path)

    def attempts(self) -> list[Attempt]:
        """Return all attempts, oldest first."""
        directory = self.attempts_directory
        return [Attempt(directory / name) for name in self.attempt_names()]

    def attempt_names(self) -> list[str]:
        """Return the names of all attempts, oldest first."""
        try:
            # As text: listings look at thousands.
            return sorted(name for name in os.listdir(f"{self.path}/{ATTEMPTS}") if name.isdigit())  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def latest_attempt(self) -> Attempt | None:
        """Return the newest attempt; None before the first."""
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
                attempt.stacks.mkdir()
                self._point_latest_at(attempt)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise DiskError(f"cannot create the attempt: {error.strerror}", where=str(attempt.path)) from error
            else:
                return attempt

    def remove_temporary_files(self) -> None:
        """Remove what killed launchers have left of files that they were writing; no other one may write them now."""
        patterns = (*(f".{name}.*.tmp" for name in (PLAN, ARGV, *SCRIPTS)), ".lease.*", "lease.*.tmp", ".latest.*")
        for directory in (self.path, *(attempt.path for attempt in self.attempts())):
            for path in (each for pattern in patterns for each in directory.glob(pattern)):
                # It takes space and no more.
                with contextlib.suppress(OSError):
                    path.unlink()

    def _point_latest_at(self, attempt: Attempt) -> None:
        temporary = self.path / f".latest.{attempt.name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(attempt.path.relative_to(self.path))
        temporary.replace(self.latest)


def _not_a_run(path: Path) -> RequestError:
    return RequestError("this is not a run directory: it holds no plan.json", where=str(path))
