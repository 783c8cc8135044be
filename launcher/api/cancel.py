"""Ending runs, waiting or running, or having them save a checkpoint and stop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher._util.errors import LauncherError
from launcher._util.shell import LocalShell
from launcher.api.locate import find_run
from launcher.rundir import RunDirectory
from launcher.watch.cancel import cancel_run


@dataclass(frozen=True)
class Cancelled:
    """What was done to one run, or why nothing was."""

    run: RunDirectory
    detail: str
    error: LauncherError | None = None


def cancel(
    names: Sequence[str], *, run_root: str | None = None, save: bool = False, force: bool = False
) -> Iterator[Cancelled]:
    """End the named runs one after the other while the result is iterated over; all are looked up before that.

    With `save` the ranks are asked to save a checkpoint and to stop. With `force` a job is ended although Slurm does
    not show whether it is the run's. A run that cannot be ended has an `error` and does not keep the others from being
    ended. Raises RequestError for a name that fits no run, and then ends none.
    """
    runs = [find_run(name, run_root) for name in names]
    return (_cancel(run, save, force) for run in runs)


def _cancel(run: RunDirectory, save: bool, force: bool) -> Cancelled:
    try:
        return Cancelled(run, cancel_run(run, LocalShell(), save=save, force=force))
    except LauncherError as error:
        return Cancelled(run, error.message, error)
