"""Uses of images: whether the run of each still needs its image, by Slurm, /proc and the run directory."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher._util.shell import Shell
from launcher.contract.process import is_alive
from launcher.images.store.uses import Use
from launcher.rundir import RunDirectory
from launcher.slurm.queue import State, ask_jobs
from launcher.watch.status import Phase, status_of

_SUBMITTING_S = 3600.0
"""Longest time that a launcher on another machine may take between recording a use and knowing its job's number."""


def liveness(
    uses: Sequence[Use], cluster: str, shell: Shell, *, clock: Callable[[], float] = time.time
) -> Callable[[Use], bool | None]:
    """Return a function that says whether a use is still needed; it returns None where that is unknown.

    Slurm is queried once, for all jobs of the profile `cluster`; numbers of other clusters mean nothing to it.
    """
    jobs = sorted({use.job for use in uses if use.job and use.cluster == cluster})
    answer = ask_jobs(jobs, shell) if jobs else None

    def is_live(use: Use) -> bool | None:
        if use.job:
            job = answer.jobs.get(use.job) if answer and use.cluster == cluster else None
            return None if job is None or job.state is State.UNKNOWN else not job.terminal
        if use.host == os.uname().nodename:
            if is_alive(use.pid, use.start_ticks):
                return True
        elif clock() - use.at < _SUBMITTING_S:
            return None
        return _goes_on(use, shell)

    return is_live


def _goes_on(use: Use, shell: Shell) -> bool | None:
    """Return whether the run continues, by its directory: its launcher has ended and left no job number here."""
    path = Path(use.run_dir)
    try:
        if not path.exists():
            # Rolled back, or deleted by its user. That is certain only if the run root is visible on this machine.
            return False if path.parent.parent.is_dir() else None
        (status,), answer = status_of([RunDirectory.at(path)], shell)
    except (LauncherError, OSError):
        return None
    if status.phase.over:
        return None if answer.unreachable else False
    return None if status.phase is Phase.UNKNOWN else True
