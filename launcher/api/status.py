"""How runs are doing."""

from collections.abc import Sequence
from pathlib import Path

from launcher._util.shell import LocalShell
from launcher.api.locate import find_run, find_run_root
from launcher.contract.frozen import dataclass
from launcher.rundir import RunDirectory
from launcher.rundir.finding import list_runs
from launcher.slurm.queue import Answer
from launcher.watch.status import RunStatus, status_of


@dataclass(frozen=True)
class Statuses:
    """The statuses of several runs, with Slurm's answer."""

    runs: tuple[RunStatus, ...]
    answer: Answer
    """Whether and when Slurm answered."""
    run_root: Path | None
    """The directory that was searched; None where all runs were named."""


def read_statuses(names: Sequence[str] = (), *, run_root: str | None = None, limit: int = 20) -> Statuses:
    """Return the statuses of the named runs, or of the newest `limit` below the run root; Slurm is asked once.

    Raises RequestError for a name that fits no run, DiskError.
    """
    root: Path | None = None
    runs: list[RunDirectory] = [find_run(name, run_root) for name in names]
    if not names:
        root = find_run_root(run_root)
        runs = list_runs(root)[:limit]
    statuses, answer = status_of(runs, LocalShell())
    return Statuses(tuple(statuses), answer, root)
