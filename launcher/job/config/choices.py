"""Which checkpoint an attempt loads: rank 0 verifies and chooses, and its record binds all ranks.

A damaged checkpoint of the run is set aside by a marker in the run's directory, and the next older one is taken. In a
directory outside the run nothing is changed, and a damaged checkpoint there is refused.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional, cast

from ...contract import checkpoints, manifest
from ...contract.checkpoints import Problem
from ...contract.files import read_object, write_json
from ...contract.records.checkpoints import CheckpointChoice, CheckpointVerification, PassedOver, VerifyMode
from ..errors import TransientError, UserError
from ..model.loading import set_aside
from ..model.shared_sums import BUDGET_S, SharedSums, manifest_of
from ..rank import Rank

WAIT_S = {"full": 24 * 3600.0, "budget": 1800.0, "sizes": 1800.0}
"""How long other ranks wait for rank 0: its imports, and the verification."""

_POLL_S = 0.2
_POLL_OF_MANY_S = 1.0
_MANY = 256
"""Ranks; as many ask the file system less often."""


def agreed(rank: Rank, verify: VerifyMode, choose: Callable[[], CheckpointChoice]) -> CheckpointChoice:
    """Return what `choose` returns on rank 0, on every rank. Raises its UserError on every rank too."""
    path = rank.paths.checkpoint_choice
    if rank.rank == 0:
        began = time.monotonic()
        try:
            choice = choose()
        except UserError as error:
            transient = isinstance(error, TransientError)
            choice = record(error=error.message, where=error.where, hint=error.hint, transient=transient)
            write_json(path, choice)
            raise
        except OSError as error:
            message = f"the checkpoints cannot be read: {error}"
            write_json(path, record(error=message, where=error.filename, transient=True))
            raise TransientError(message, where=error.filename) from error
        choice["seconds"] = time.monotonic() - began
        write_json(path, choice)
        return choice
    end = time.monotonic() + WAIT_S[verify]
    while (content := read_object(path)) is None:
        if time.monotonic() > end:
            raise TransientError(
                f"rank 0 has not chosen a checkpoint after {WAIT_S[verify]:.0f} s",
                where=str(path),
                hint="see the log of rank 0",
            )
        time.sleep(_POLL_S if rank.world_size < _MANY else _POLL_OF_MANY_S)
    found = cast(CheckpointChoice, content)
    if found["error"] is not None:
        kind = TransientError if found["transient"] else UserError
        raise kind(found["error"], where=found["where"], hint=found["hint"])
    return found


def resumed(
    rank: Rank,
    directory: Path,
    step: Optional[int],
    ckpt_format: str,
    verify: VerifyMode,
    sums: Optional[SharedSums] = None,
) -> CheckpointChoice:
    """Return what continues the run: the newest whole checkpoint in `directory`, or that of `step`.

    Without any checkpoint its iteration is None. `sums` shares the work among the nodes. One that cannot be read is
    passed over and not set aside: it may be whole. Raises UserError where none is whole, or a damaged one may not be
    set aside, and OSError where the one that is named, or all that may be whole, cannot be read.
    """
    deadline = time.monotonic() + BUDGET_S
    found = checkpoints.iterations(directory)
    tracked = checkpoints.tracked_iteration(directory)
    own = directory.resolve().is_relative_to(rank.run_dir.resolve())
    passed: list[PassedOver] = []
    if step is not None:
        path = next((path for number, path in found if number == step), directory / f"iter_{step:07d}")
        verdict = _verify(rank, path, ckpt_format, verify, deadline, sums)
        if verdict.problem is not None:
            raise _refusal(path, verdict.problem, "name another with checkpoint.ckpt_step=N")
        return _resume_from(directory, step, verdict.verification, _leave_others(rank, found, step, path, own=own))
    unreadable: Optional[OSError] = None
    for number, path in reversed(found):
        if (marked := _marker(rank, number, path, own=own)) is not None:
            passed.append(_passed(number, marked, True))
            continue
        try:
            verdict = _verify(rank, path, ckpt_format, verify, deadline, sums)
        except OSError as error:
            unreadable = error
            passed.append(_passed(number, _unknown(error), False))
            continue
        if verdict.problem is None:
            return _resume_from(directory, number, verdict.verification, passed)
        is_final = rank.run_paths.manifest(path).exists() or (tracked is not None and number <= tracked)
        if is_final and not own:
            raise _refusal(
                path,
                verdict.problem,
                "nothing is changed in a directory outside the run: remove this checkpoint yourself, or name an older "
                "one with checkpoint.ckpt_step=N",
            )
        is_marked = is_final and _set_aside(rank, number, path, verdict.problem)
        passed.append(_passed(number, verdict.problem, is_marked))
    if unreadable is not None:
        raise unreadable
    if checkpoints.has_tracker(directory):
        numbers = ", ".join(str(number) for number, _ in found) or "none"
        first = f"; {passed[0]['iteration']}: {passed[0]['file']} {passed[0]['reason']}" if passed else ""
        raise UserError(
            f"none of the checkpoints that this run saved in {directory} is complete (iterations: {numbers}){first}",
            where=str(directory),
            hint="name one with checkpoint.ckpt_step=N, or start a new run; resuming would start from nothing",
        )
    return record(passed_over=passed)


def allowed(
    rank: Rank,
    wish: Path,
    step: Optional[int],
    ckpt_format: str,
    verify: VerifyMode,
    sums: Optional[SharedSums] = None,
) -> CheckpointChoice:
    """Return the choice of a checkpoint that the user named and allowed. Raises UserError for a damaged one.

    What Bridge loads from it is verified: the directory itself, or the iteration of `step` or of the tracker. That
    iteration is in the choice's `ckpt_step`, since Bridge reads another tracker than this module does.
    """
    number, path = _loaded_from(wish, step)
    if path is None:
        return record(load=str(wish))
    verdict = _verify(rank, path, ckpt_format, verify, time.monotonic() + BUDGET_S, sums)
    if verdict.problem is not None:
        raise _refusal(path, verdict.problem, "name a whole one with checkpoint.load or checkpoint.ckpt_step=N")
    pinned = number if path != wish else None
    return record(load=str(wish), iteration=number, ckpt_step=pinned, verification=verdict.verification)


def record(**known: Any) -> CheckpointChoice:
    """Return a choice with what is known, and nothing else."""
    nothing: CheckpointChoice = {
        "version": 1,
        "time": time.time(),
        "seconds": 0.0,
        "resumed": False,
        "iteration": None,
        "load": None,
        "ckpt_step": None,
        "verification": None,
        "passed_over": [],
        "error": None,
        "where": None,
        "hint": None,
        "transient": False,
    }
    return cast(CheckpointChoice, {**nothing, **known})


def _verify(
    rank: Rank, path: Path, ckpt_format: str, verify: VerifyMode, deadline: float, sums: Optional[SharedSums]
) -> manifest.CheckpointVerdict:
    return manifest.verify(
        path,
        manifest_of(rank, path),
        ckpt_format,
        verify,
        deadline=deadline,
        seed=int(rank.attempt),
        take_sums=sums.take if sums else None,
    )


def _resume_from(
    directory: Path, step: int, verification: Optional[CheckpointVerification], passed: list[PassedOver]
) -> CheckpointChoice:
    # Without a tracker Bridge silently starts from nothing; an iteration's own directory needs none.
    tracked = checkpoints.has_tracker(directory)
    return record(
        resumed=True,
        iteration=step,
        load=str(directory if tracked else directory / f"iter_{step:07d}"),
        ckpt_step=step if tracked else None,
        verification=verification,
        passed_over=passed,
    )


def _loaded_from(wish: Path, step: Optional[int]) -> tuple[Optional[int], Optional[Path]]:
    """Return iteration and directory of the checkpoint that Bridge loads from `wish`; None where that is not known.

    Raises UserError where the tracker is damaged.
    """
    found = checkpoints.iterations(wish)
    if not found:
        is_one = any((wish / name).is_file() for name in checkpoints.MARKERS)
        digits = wish.name.removeprefix("iter_")
        return (int(digits) if digits.isdigit() else None), (wish if is_one else None)
    tracker = wish / checkpoints.TRACKERS[1]
    number = checkpoints.tracked_iteration(wish) if step is None else step
    path = next((path for each, path in found if each == number), None)
    if step is None and path is None and tracker.exists() and tracker.read_bytes().strip() != b"release":
        numbers = ", ".join(str(each) for each, _ in found)
        raise UserError(
            f"the tracker {tracker} names no checkpoint that is there (iterations: {numbers})",
            where=str(tracker),
            hint="name one with checkpoint.ckpt_step=N",
        )
    return number, path


def _leave_others(
    rank: Rank, found: Sequence[tuple[int, Path]], step: int, path: Path, *, own: bool
) -> list[PassedOver]:
    """Set the checkpoints after `step` aside, and that of `step` in `path` no longer; return those after it.

    An attempt that follows by itself must not return to a newer one, and may load this one.
    """
    reason = f"was left: the run continues from iteration {step}, as checkpoint.ckpt_step says"
    left = Problem("the checkpoint", reason)
    passed = [_passed(number, left, _set_aside(rank, number, newer, left)) for number, newer in found if number > step]
    # Where the marker stays, the checkpoint is refused with its reason.
    with contextlib.suppress(OSError):
        if _marker(rank, step, path, own=own) is not None:
            rank.run_paths.set_aside(step).unlink()
    return passed


def _marker(rank: Rank, iteration: int, path: Path, *, own: bool) -> Optional[Problem]:
    """Return why a checkpoint is set aside; None where it is not. A marker that cannot be read counts."""
    place = rank.run_paths.set_aside(iteration)
    marker = read_object(place)
    if marker is None:
        is_there = own and place.exists()
        return Problem("the checkpoint", "was set aside, and its marker cannot be read") if is_there else None
    if not own and marker.get("directory") != str(path):
        return None
    return Problem(str(marker.get("file")), str(marker.get("reason")))


def _unknown(error: OSError) -> Problem:
    """Return what keeps a checkpoint from being loaded now, which is not known to be damage."""
    name = Path(error.filename).name if error.filename else "a file"
    return Problem(name, f"cannot be read ({error.strerror}), so it is unknown whether the checkpoint is whole")


def _set_aside(rank: Rank, iteration: int, path: Path, problem: Problem) -> bool:
    """Write the marker, and return whether that was possible: the older checkpoint is loaded in any case."""
    try:
        set_aside(rank, iteration, path, problem)
    except OSError:
        return False
    return True


def _passed(iteration: int, problem: Problem, marked: bool) -> PassedOver:
    return {"iteration": iteration, "file": problem.file, "reason": problem.reason, "set_aside": marked}


def _refusal(path: Path, problem: Problem, hint: str) -> UserError:
    return UserError(f"checkpoint {path} is not whole: {problem}", where=str(path / problem.file), hint=hint)
