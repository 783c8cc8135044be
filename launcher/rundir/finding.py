"""Finding runs by directory, name, run id or job, with as few file calls as the answer needs.

A run root is scanned by names alone: one directory for the root and one for each name. A run's own files are looked at
only where it is shown, or meant.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher._util.user_paths import exists, user_path
from launcher.contract import files
from launcher.contract.paths import PLAN, RunPaths
from launcher.contract.values import nearest
from launcher.rundir import RunDirectory

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}(-.*)?", re.ASCII | re.DOTALL)
"""What the launcher names a run's directory by: the second of its plan, then chance."""
_JOB = re.compile(r"[0-9]+(_[0-9]+)?", re.ASCII)
"""How Slurm names a job: 123, or 123_4 for a task of an array."""
_SECOND = len("20260101-000000")
_SHORTEST_BEGINNING = 4
_SHOWN = 5
_COMPARED = 1000
"""Ids that a wrong one is compared with, the newest."""


def scan(root: Path) -> list[tuple[str, str]]:
    """Return the name and the id of what is below a run root, `<root>/<name>/<run id>`, newest first, without a look.

    What has not an id of the launcher's comes last. Raises DiskError for a root that cannot be read.
    """
    found = [(name, run_id) for name in _names(root) for run_id in _of_name(root, name)]
    return sorted(found, key=lambda each: (RUN_ID.fullmatch(each[1]) is not None, each[1], each[0]), reverse=True)


def _names(root: Path) -> list[str]:
    """Return the names of runs below a root. Raises DiskError."""
    try:
        return _directories(root)
    except OSError as error:
        raise DiskError(f"cannot list the runs: {error.strerror}", where=str(root)) from error


def _directories(path: Path) -> list[str]:
    """Return the directories in a directory; hidden ones are still being written, or are the launcher's.

    Raises OSError.
    """
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []  # removed since it was listed, or there are no runs yet


def iterate_runs(roots: Iterable[Path], *, name: str | None = None) -> Iterator[RunDirectory]:
    """Yield the runs below run roots, newest first, each looked at when it is its turn; with `name` those of a name."""
    found = []
    for root in dict.fromkeys(Path(os.path.realpath(each)) for each in roots):
        for of_name in _names(root) if name is None else [name]:
            directory = f"{root}/{of_name}"
            if os.path.islink(directory):  # noqa: PTH114 - paths are texts where there are thousands
                directory = os.path.realpath(directory)
            found += [(run_id, directory) for run_id in _of_name(root, of_name)]
    dated = [each for each in found if RUN_ID.fullmatch(each[0])]
    for _, group in groupby(sorted(dated, key=itemgetter(0), reverse=True), key=lambda each: each[0][:_SECOND]):
        yield from _existing(group)
    if len(dated) < len(found):
        yield from _existing(each for each in found if not RUN_ID.fullmatch(each[0]))


def _of_name(root: Path, name: str) -> list[str]:
    """Return the ids of a name; none where this user may not look."""
    try:
        return _directories(root / name)
    except OSError:
        return []


def _existing(runs: Iterable[tuple[str, str]]) -> Iterator[RunDirectory]:
    """Yield those that are runs; of several whose ids do not order them, the newest by its plan first.

    Each is an id with the directory of its name.
    """
    found = []
    for run_id, directory in runs:
        try:
            found.append((os.stat(f"{directory}/{run_id}/{PLAN}").st_mtime_ns, directory, run_id))  # noqa: PTH116 - one call
        except OSError:
            continue  # not a run, or removed since it was listed
    for _, directory, run_id in sorted(found, key=itemgetter(0), reverse=True):
        path = f"{directory}/{run_id}"
        yield RunDirectory(Path(path).resolve() if os.path.islink(path) else Path(path))  # noqa: PTH114 - as above


def list_runs(root: Path, limit: int | None = None) -> list[RunDirectory]:
    """Return all runs below a run root, or the newest `limit`, newest first. Raises DiskError."""
    return list(islice(iterate_runs([root]), limit))


def listed_run(root: Path, name: str, run_id: str) -> RunDirectory | None:
    """Return the run of this name and id, if the directories of a run root list both; no path is made from others."""
    try:
        if name not in _directories(root) or run_id not in _directories(root / name):
            return None
    except OSError:
        return None  # this user may not look there
    run = RunDirectory(root / name / run_id)
    return run if exists(run.plan_file) else None


def run_at(name: str) -> RunDirectory | None:
    """Return the run whose directory is `name`, or the newest of the directory of a name; None for anything else.

    A single word is not taken for the directory of a name: it means the name below the run root.
    """
    directory = user_path(name, Path.cwd(), where="RUN")
    if exists(RunPaths(directory).plan_file):
        return RunDirectory.at(directory)
    return next(iterate_runs([directory.parent], name=directory.name), None) if "/" in name else None


def find_run(name: str, root: Path, others: Iterable[Path] = ()) -> RunDirectory:
    """Return the run that a user means.

    That is a directory (a run's, or that of a name), a name's newest run, `NAME/RUN_ID`, a run id or its beginning, or
    the number of a Slurm job. It is looked for below `root`, then below `others`, which are other run roots of this
    user. Raises RequestError with what there is, and for what fits several runs.
    """
    if (run := run_at(name)) is not None:
        return run
    plain = name.rstrip("/")
    for roots in ([root], [each for each in others if each != root]):
        found = list(dict.fromkeys(run for each in roots for run in _matches(plain, each)))
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(str(run.path) if roots[1:] else _shown(run) for run in found[:_SHOWN])
            raise RequestError(f"{name!r} fits {len(found)} runs: {several}", hint="Name one of them in full.")
    raise RequestError(f"there is no run {name!r}", where=str(root), hint=_what_there_is(plain, [root, *others]))


def _matches(name: str, root: Path) -> list[RunDirectory]:
    """Return the runs below a root that `name` may mean; more than one where it is ambiguous."""
    if not name or name.startswith("."):
        return []
    if exists(RunPaths(root / name).plan_file):
        return [RunDirectory.at(root / name)]
    of_name, _, beginning = name.rpartition("/")
    if not of_name and not RUN_ID.fullmatch(name) and (newest := next(iterate_runs([root], name=name), None)):
        return [newest]
    ids = [(one, run_id) for one, run_id in scan(root) if of_name in ("", one)]
    fitting = [each for each in ids if each[1] == beginning]
    if not fitting and len(beginning) >= _SHORTEST_BEGINNING:
        fitting = [each for each in ids if each[1].startswith(beginning)]
    runs = [RunDirectory.at(path) for one in fitting if exists(RunPaths(path := root.joinpath(*one)).plan_file)]
    if _JOB.fullmatch(name):
        runs += [run for run in runs_of_job(name, root) if run not in runs]
    return runs


def runs_of_job(job: str, root: Path) -> list[RunDirectory]:
    """Return the runs below a root that have had this Slurm job; of several in one allocation only the newest.

    Each cluster counts on its own: of each the newest is returned. Every journal is read.
    """
    mark, found = f'"job": "{job}"'.encode(), dict[str | None, RunDirectory]()
    for run in iterate_runs([root]):
        try:
            if mark not in files.read_bytes(run.journal_file):
                continue
            events = run.journal.read()
        except (OSError, DiskError):
            continue  # `status` says what is wrong with that run
        for event in events:
            if event.get("job") == job:
                found.setdefault(event.get("cluster"), run)
    return list(dict.fromkeys(found.values()))


def _shown(run: RunDirectory) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def _what_there_is(name: str, roots: list[Path]) -> str:
    ids = [each for root in roots for each in scan(root)]
    if not ids:
        return "There are no runs there; --run-root names another directory."
    names = list(dict.fromkeys(of_name for of_name, _ in ids))
    of_name, _, run_id = name.rpartition("/")
    near = nearest(name, names) or nearest(run_id, [each for _, each in ids[:_COMPARED]]) or nearest(of_name, names)
    words = f"Did you mean: {', '.join(near)}?" if near else f"The newest there: {', '.join(names[:_SHOWN])}."
    return f"{words} `launcher status` lists the runs; --run-root names another directory."
