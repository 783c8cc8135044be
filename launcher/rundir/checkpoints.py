"""The checkpoints in a run's own directory, and which of them a policy removes.

Only `checkpoints/iter_NNNNNNN` of the run itself is looked at; a checkpoint is never followed through a link.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher._util.older_python import remove_tree
from launcher.contract import checkpoints, manifest
from launcher.contract.paths import RunPaths
from launcher.contract.records.checkpoints import VerifyMode

_REMOVED = ".removed."
"""Before the name of a checkpoint while its files are removed; no program takes it for a checkpoint then."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint of a run. `keep` says why it stays; empty where the policy removes it."""

    iteration: int
    path: Path
    bytes: int
    files: int
    state: str
    """`whole, with sums`, `whole, without sums`, or what is wrong with it."""
    whole: bool
    verifiable: bool
    """Whether it has a manifest, and every file has the size that is recorded there."""
    keep: str = ""

    def found_damaged(self, problem: str | None) -> "SavedCheckpoint":
        """Return the same checkpoint, not whole because of `problem`; itself for None."""
        if problem is None:
            return self
        return replace(self, state=f"not whole: {problem}", whole=False, verifiable=False)


@dataclass(frozen=True)
class Policy:
    """Which checkpoints are kept: the newest `last` whole ones, and those at multiples of `every` iterations."""

    last: int
    every: int | None = None


@dataclass(frozen=True)
class Protected:
    """What stays whatever the policy says: a run that is live saves, sums or loads it."""

    after: int | None = None
    """Iterations from this one on, and all that are not whole: the newest final checkpoint, and the save in flight.

    None: nothing is in flight.
    """
    iterations: frozenset[int] = frozenset()
    """Those from which attempts have started and may start again."""


def find_checkpoints(run: RunPaths) -> list[SavedCheckpoint]:
    """Return the run's checkpoints, oldest first.

    Raises RequestError where their directory leaves the run's, and DiskError where one may be whole and cannot be read.
    """
    directory = run.checkpoints
    if directory.is_symlink() or not directory.resolve().is_relative_to(run.path.resolve()):
        raise RequestError(
            "the checkpoints are not in the run's directory, so nothing is removed there",
            where=f"{directory} -> {directory.resolve()}",
        )
    with _reading(directory):
        return [_look(run, number, path) for number, path in checkpoints.iterations(directory) if not path.is_symlink()]


def apply_policy(found: Sequence[SavedCheckpoint], policy: Policy, protected: Protected) -> list[SavedCheckpoint]:
    """Return the checkpoints with why each stays; pure.

    Besides the policy there stay: the newest whole one, the newest one with sums, and what is protected. Where none is
    whole all stay, since the least damaged one is then all that there is.
    """
    whole = [one.iteration for one in found if one.whole]
    verifiable = [one.iteration for one in found if one.verifiable]
    last = set(whole[-policy.last :] if policy.last > 0 else [])

    def reason(one: SavedCheckpoint) -> str:
        number = one.iteration
        # After a rollback a save is in flight below checkpoints of an earlier attempt.
        if protected.after is not None and (number >= protected.after or not one.whole):
            return "the run is live"
        if number in protected.iterations:
            return "an attempt loads it"
        if not whole:
            return "no checkpoint is whole"
        if number in last:
            return f"one of the last {policy.last}"
        if verifiable and number == verifiable[-1]:
            return "the newest with sums"
        if number == whole[-1]:
            return "the newest whole one"
        if policy.every and one.whole and number % policy.every == 0:
            return f"a multiple of {policy.every}"
        return ""

    return [replace(one, keep=reason(one)) for one in found]


def sum_problem(run: RunPaths, one: SavedCheckpoint, mode: VerifyMode, deadline: float) -> str | None:
    """Return what is wrong with a checkpoint by the sums of its files, taken until `deadline` with mode budget.

    Raises DiskError where a file cannot be read.
    """
    with _reading(one.path):
        verdict = manifest.verify(one.path, run.manifest(one.path), _format(one.path), mode, deadline=deadline)
    return str(verdict.problem) if verdict.problem else None


def remove(run: RunPaths, one: SavedCheckpoint) -> bool:
    """Remove a checkpoint with its manifest and its marker; return whether it was there. Raises DiskError.

    Its directory is renamed first: from then on nothing takes it for a checkpoint, even if this process is killed.
    """
    hidden = one.path.with_name(f"{_REMOVED}{one.path.name}.{os.getpid()}")
    try:
        one.path.rename(hidden)
        run.set_aside(one.iteration).unlink(missing_ok=True)
        remove_tree(hidden, _unless_missing)
    except FileNotFoundError:  # the run itself has removed it meanwhile (checkpoint.most_recent_k)
        return False
    except OSError as error:
        raise DiskError(f"cannot remove {one.path.name}: {error.strerror}", where=str(error.filename)) from error
    return True


def sweep(run: RunPaths) -> None:
    """Remove what a killed process has left of checkpoints that it was removing, their markers too."""
    for left in run.checkpoints.glob(f"{_REMOVED}iter_*"):
        if left.is_dir() and not left.is_symlink():
            name = left.name.removeprefix(_REMOVED).partition(".")[0]
            number = name.removeprefix("iter_")
            if number.isdigit() and not (run.checkpoints / name).exists():  # else the marker is that of a later save
                with contextlib.suppress(OSError):
                    run.set_aside(int(number)).unlink(missing_ok=True)
            shutil.rmtree(left, ignore_errors=True)


def _unless_missing(error: BaseException) -> None:
    """Let the removal go on where another process has removed a file meanwhile: the run itself may be removing them."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Raise DiskError for a file that cannot be read inside the block: it is not known to be damaged."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"a checkpoint cannot be read, so it is unknown which are whole: {error.strerror or error}",
            where=str(error.filename or place),
            hint="Nothing was removed; try again when the file can be read.",
        ) from error


def _look(run: RunPaths, iteration: int, path: Path) -> SavedCheckpoint:
    size = files = 0
    for directory, _, names in os.walk(path):
        for name in names:
            # A file that goes while it is counted; `verify` below names what is missing.
            with contextlib.suppress(OSError):
                size += (Path(directory) / name).lstat().st_size
                files += 1
    verdict = manifest.verify(path, run.manifest(path), _format(path), "sizes")
    if run.set_aside(iteration).exists():
        return SavedCheckpoint(iteration, path, size, files, "damaged: set aside", whole=False, verifiable=False)
    if verdict.problem is not None:
        return SavedCheckpoint(iteration, path, size, files, f"not whole: {verdict.problem}", False, False)
    verifiable = run.manifest(path).exists()
    state = f"whole, {'with' if verifiable else 'without'} sums"
    return SavedCheckpoint(iteration, path, size, files, state, whole=True, verifiable=verifiable)


def _format(path: Path) -> str:
    """Return the format of a checkpoint: metadata.json is torch_dist's alone."""
    try:
        json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "fsdp_dtensor"
    except (OSError, ValueError):
        return "torch_dist"
    return "torch_dist"
