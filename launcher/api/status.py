"""How runs are doing."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from launcher._util.shell import LocalShell
from launcher.api.locate import find_run, find_run_root
from launcher.contract.frozen import dataclass
from launcher.rundir import RunDirectory
from launcher.rundir.finding import iterate_runs, list_runs
from launcher.rundir.registry import known_roots, remember_root
from launcher.slurm.queue import Answer
from launcher.watch.status import RunStatus, status_of


@dataclass(frozen=True)
class Statuses:
    """The statuses of several runs, with Slurm's answer."""

    runs: tuple[RunStatus, ...]
    answer: Answer
    """Whether and when Slurm answered."""
    run_roots: tuple[Path, ...]
    """The directories that were searched; none where all runs were named."""


def read_statuses(
    names: Sequence[str] = (), *, run_root: str | None = None, everywhere: bool = False, limit: int = 20
) -> Statuses:
    """Return the statuses of the named runs, or of the newest `limit` below the run root; Slurm is asked once.

    With `everywhere`, or where the run root has no runs and was not named, those below all run roots of this user
    count. Raises RequestError for a name that fits no run, DiskError.
    """
    roots: tuple[Path, ...] = ()
    runs: list[RunDirectory] = [find_run(name, run_root) for name in names]
    if not names:
        roots, runs = _newest(run_root, everywhere, limit)
    statuses, answer = status_of(runs, LocalShell())
    return Statuses(tuple(statuses), answer, roots)


def _newest(run_root: str | None, everywhere: bool, limit: int) -> tuple[tuple[Path, ...], list[RunDirectory]]:
    roots: tuple[Path, ...] = (find_run_root(run_root),)
    if not everywhere and (runs := list_runs(roots[0], limit)):
        if run_root is not None:
            remember_root(roots[0], os.environ)
        return roots, runs
    if run_root is None:
        roots = tuple(dict.fromkeys([*roots, *known_roots(os.environ)]))
    return roots, list(islice(iterate_runs(roots), limit))
