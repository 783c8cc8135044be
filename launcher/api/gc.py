"""Removing checkpoints of a run by policy: what is there, what would go, and what went."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import LocalShell
from launcher.api.locate import find_run
from launcher.contract.files import read_object
from launcher.contract.records.checkpoints import VerifyMode
from launcher.rundir import RunDirectory
from launcher.rundir.checkpoints import (
    Policy,
    Protected,
    SavedCheckpoint,
    apply_policy,
    find_checkpoints,
    remove,
    sum_problem,
    sweep,
)
from launcher.rundir.locks import submit_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.rundir import Attempt
    from launcher.watch.status import RunStatus


VERIFY_S = 120.0
"""How long sums are taken with `verify` budget."""


@dataclass(frozen=True)
class CollectedCheckpoints:
    """The checkpoints of a run, and which of them were removed."""

    run: RunDirectory
    found: tuple[SavedCheckpoint, ...]
    """All that were there, oldest first."""
    removed: tuple[int, ...]
    """Iterations that were removed; without `remove` none."""
    live: str | None
    """How the run is, where it goes on."""

    @property
    def going(self) -> tuple[SavedCheckpoint, ...]:
        """Return the checkpoints that the policy removes."""
        return tuple(one for one in self.found if not one.keep)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return {
            "run_dir": str(self.run.path),
            "live": self.live,
            "checkpoints": [
                {
                    "iteration": one.iteration,
                    "bytes": one.bytes,
                    "files": one.files,
                    "state": one.state,
                    "keep": one.keep or None,
                    "removed": one.iteration in self.removed,
                }
                for one in self.found
            ],
            "bytes_to_remove": sum(one.bytes for one in self.going),
        }


def collect_checkpoints(
    name: str,
    *,
    keep_last: int,
    keep_every: int | None = None,
    run_root: str | None = None,
    verify: VerifyMode = "budget",
    confirm: "Callable[[CollectedCheckpoints], bool] | None" = None,
) -> CollectedCheckpoints:
    """Remove the checkpoints of a run that a policy does not keep, if `confirm` agrees; None removes nothing.

    Kept are the newest `keep_last` whole checkpoints, those at multiples of `keep_every`, the newest one with sums, and
    of a live run the newest final one with all that follows. The sums of the newest one are verified before anything is
    removed (`verify`); if they are wrong, it is not whole, and the next older one counts as the newest. Of a live run
    all that are not whole stay, too: one may be a save in flight.

    While files are removed no command starts an attempt of the run. Slurm may: a requeue, or a successor that waits in
    the queue. Such an attempt loads the newest whole checkpoint, which stays.
    Raises RequestError for a policy that keeps nothing, a run whose state is unknown, or checkpoints outside the run,
    and DiskError where a checkpoint cannot be read, in which case nothing is removed, or cannot be removed.
    """
    if keep_last < 1 or (keep_every is not None and keep_every < 1):
        raise RequestError(
            "at least one checkpoint is kept, and multiples are of a positive number", where="--keep-last"
        )
    run = find_run(name, run_root)
    _require_own(run)
    policy = Policy(keep_last, keep_every)
    with submit_lock(run):
        damaged = _damaged(run, verify) if confirm is not None else {}
        planned = _look(run, policy, damaged)
        if confirm is None or not planned.going or not confirm(planned):
            return planned
        # The run may have gone on meanwhile: only what is removable now as well is removed.
        now = {one.iteration: one for one in _look(run, policy, damaged).going}
        removed = []
        for one in planned.going:
            if one.iteration in now and remove(run, now[one.iteration]):
                removed.append(one.iteration)
        sweep(run)
    return CollectedCheckpoints(run, planned.found, tuple(removed), planned.live)


def _damaged(run: RunDirectory, verify: VerifyMode) -> dict[int, str]:
    """Return what is wrong with the newest checkpoints by their sums, up to the first one with right sums."""
    deadline, damaged = time.monotonic() + VERIFY_S, dict[int, str]()
    for one in reversed(find_checkpoints(run)):
        if one.verifiable:
            if (problem := sum_problem(run, one, verify, deadline)) is None:
                break
            damaged[one.iteration] = problem
    return damaged


def _look(run: RunDirectory, policy: Policy, damaged: Mapping[int, str]) -> CollectedCheckpoints:
    from launcher.watch.status import status_of

    status = status_of([run], LocalShell())[0][0]
    protected = _protected(run, status)
    found = [one.found_damaged(damaged.get(one.iteration)) for one in find_checkpoints(run)]
    found = apply_policy(found, policy, protected)
    live = None if status.phase.over else f"{status.phase.value}: {status.detail}".rstrip(": ")
    return CollectedCheckpoints(run, tuple(found), (), live)


def _protected(run: RunDirectory, status: "RunStatus") -> Protected:
    """Return what stays because of the run's state. Raises RequestError where that is unknown."""
    if status.phase.over and status.phase.value != "lost":  # its ranks may be alive out of Slurm's sight
        return Protected()
    if status.phase.value == "unknown":
        raise RequestError(
            f"it is unknown whether the run goes on: {status.detail}",
            where=str(run.path),
            hint="Nothing was removed; try again when Slurm answers.",
        )
    from launcher.contract import checkpoints

    attempt = run.latest_attempt()
    choice = (read_object(attempt.checkpoint_choice) if attempt else None) or {}
    loaded = choice.get("iteration")
    after = checkpoints.tracked_iteration(run.checkpoints) or 0
    if attempt is not None and isinstance(loaded, int) and not _has_saved(run, attempt):
        after = min(after, loaded)  # after a rollback the tracker still names a later iteration
    return Protected(after=after, iterations=frozenset([loaded] if isinstance(loaded, int) else []))


def _has_saved(run: RunDirectory, attempt: "Attempt") -> bool:
    """Return whether the tracker was written after the attempt had chosen its checkpoint, as far as can be seen.

    Both files are on one file system, so its clock alone counts.
    """
    from launcher.contract import checkpoints

    try:
        saved = (run.checkpoints / checkpoints.TRACKERS[1]).stat().st_mtime_ns
        return saved > attempt.checkpoint_choice.stat().st_mtime_ns
    except OSError:
        return False


def _require_own(run: RunDirectory) -> None:
    """Refuse a run that saves elsewhere or does not show where. Raises RequestError, DiskError."""
    try:
        saves = [each for each in run.plan["argv"]["overrides"] if each["key"] == "checkpoint.save"]
    except (KeyError, TypeError):
        raise DiskError(
            "the plan of the run is damaged: it does not show where it saves", where=str(run.plan_file)
        ) from None
    for override in saves:
        if override.get("value") != str(run.checkpoints):
            raise RequestError(
                f"the run saves with {override['text']}, and nothing is removed outside its own directory",
                where=str(run.path),
            )
