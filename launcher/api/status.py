"""How runs are doing."""

import os
import re
import time
from collections.abc import Sequence
from itertools import chain, islice, takewhile
from pathlib import Path

from launcher._util.errors import LauncherError, RequestError
from launcher._util.shell import LocalShell
from launcher.api.locate import find_cluster, find_run, find_run_root
from launcher.contract.frozen import dataclass
from launcher.rundir import RunDirectory
from launcher.rundir.finding import iterate_runs
from launcher.rundir.registry import known_roots, remember_root
from launcher.slurm.queue import Answer
from launcher.watch.status import RunStatus, status_of

_LOOKED_AT = 1000
"""Runs among which those of a state are looked for."""
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True)
class Statuses:
    """The statuses of several runs, with Slurm's answer."""

    runs: tuple[RunStatus, ...]
    answer: Answer
    """Whether and when Slurm answered."""
    run_roots: tuple[Path, ...]
    """The directories that were searched; none where all runs were named."""


def read_statuses(
    names: Sequence[str] = (),
    *,
    run_root: str | None = None,
    cluster: str | None = None,
    everywhere: bool = False,
    limit: int = 20,
    states: Sequence[str] = (),
    since: str | None = None,
) -> Statuses:
    """Return the statuses of the named runs, or of the newest `limit` below the run root; Slurm is asked once.

    `cluster` is the profile whose run root is meant, and whose runs count. With `everywhere`, or where the run root has
    no runs and was not named, those below all run roots of this user count. `states` are the phases that count, of the
    newest 1,000 runs, and `since` the time from which they do, as `begin_of` takes it. Raises RequestError for a name
    that fits no run and for a wrong time, DiskError.
    """
    roots: tuple[Path, ...] = ()
    runs: list[RunDirectory] = [find_run(name, run_root, cluster) for name in names]
    if not names:
        first = "" if since is None else begin_of(since, time.time())
        some = _LOOKED_AT if states or cluster else limit
        roots, runs = _newest(find_run_root(run_root, cluster), run_root is not None, everywhere, some, first)
    if cluster and not names:
        profile = find_cluster(cluster, elsewhere=True)[0].name
        runs = [run for run in runs if _profile_of(run) in (profile, None)][: None if states else limit]
    statuses, answer = status_of(runs, LocalShell())
    if states and not names:
        statuses = [each for each in statuses if each.phase.value in states][:limit]
    return Statuses(tuple(statuses), answer, roots)


def begin_of(since: str, now: float) -> str:
    """Return the first run id of a time: `90m`, `12h`, `3d`, `2w` before now, or a local date, also with a time.

    Raises RequestError.
    """
    if match := re.fullmatch(r"([0-9]{1,6})([mhdw])", since, re.ASCII):
        begin = time.localtime(now - int(match[1]) * _UNITS_S[match[2]])
        return time.strftime("%Y%m%d-%H%M%S", begin)
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"):
        try:
            return time.strftime("%Y%m%d-%H%M%S", time.strptime(since, form))
        except ValueError:
            continue  # the next form
    raise RequestError(
        f"{since!r} is not a time", where="--since", hint="Such as 90m, 12h, 3d, 2w, 2026-01-31 or '2026-01-31 18:00'."
    )


def _profile_of(run: RunDirectory) -> str | None:
    """Return the name of the run's cluster profile; None where its plan cannot be read."""
    try:
        return str(run.plan["cluster"])
    except (LauncherError, OSError, KeyError):
        return None


def _newest(
    root: Path, named: bool, everywhere: bool, limit: int, first: str
) -> tuple[tuple[Path, ...], list[RunDirectory]]:
    """Return the directories that are searched, and their newest runs from the id `first` on."""
    roots: tuple[Path, ...] = (root,)
    runs = iterate_runs(roots)
    if not everywhere and (newest := next(runs, None)) is not None:
        runs = chain([newest], runs)
        if named:
            remember_root(roots[0], os.environ)
    elif not named:
        roots = tuple(dict.fromkeys([*roots, *known_roots(os.environ)]))
        runs = iterate_runs(roots)
    return roots, list(islice(takewhile(lambda run: run.path.name >= first, runs), limit))
