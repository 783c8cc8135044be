"""Ending runs, waiting or running, or having them save a checkpoint and stop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher._util.shell import LocalShell
from launcher.api.locate import find_run
from launcher.rundir import RunDirectory
from launcher.watch.cancel import cancel_run


@dataclass(frozen=True)
class Cancelled:
    """What was done to one run."""

    run: RunDirectory
    detail: str


def cancel(
    names: Sequence[str], *, run_root: str | None = None, save: bool = False, force: bool = False
) -> Iterator[Cancelled]:
    """End the named runs one after the other while the result is iterated over; all are looked up before that.

    With `save` the ranks are asked to save a checkpoint and to stop. With `force` a job is ended although Slurm does
    not show whether it is the run's. Raises RequestError, OutsideError, SlurmError.
    """
    runs = [find_run(name, run_root) for name in names]
    return (Cancelled(run, cancel_run(run, LocalShell(), save=save, force=force)) for run in runs)
