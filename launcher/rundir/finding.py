"""Finding runs by directory, run id or name."""

import contextlib
import difflib
from pathlib import Path

from launcher._util.errors import RequestError
from launcher._util.user_paths import exists, user_path
from launcher.contract.paths import PLAN, RunPaths
from launcher.rundir import RunDirectory


def list_runs(root: Path) -> list[RunDirectory]:
    """Return all runs below a run root, `<root>/<name>/<run id>`, newest first."""
    # [!.]: a directory that is still being written has a hidden name.
    found = []
    for path in root.glob(f"*/[!.]*/{PLAN}"):
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            found.append((path.stat().st_mtime_ns, str(path), path.parent))
    return [RunDirectory(path.resolve()) for _, _, path in sorted(found, reverse=True)]


def find_run(name: str, root: Path) -> RunDirectory:
    """Return the run that a user means: a directory, `NAME/RUN_ID`, a run id or its beginning, a name's newest run.

    Raises RequestError with what there is.
    """
    for directory in (user_path(name, Path.cwd(), where="RUN"), root / name):
        if exists(RunPaths(directory).plan_file):
            return RunDirectory.at(directory)
    runs = list_runs(root)
    exact = [run for run in runs if run.path.name == name]
    of_name = [run for run in runs if run.path.parent.name == name]
    beginning = [run for run in runs if len(name) >= 4 and run.path.name.startswith(name)]
    if not exact and of_name:
        return of_name[0]
    found = exact or beginning
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{run.path.parent.name}/{run.path.name}" for run in found[:5])
        raise RequestError(f"{name!r} fits {len(found)} runs: {several}", hint="Name one of them in full.")
    raise RequestError(f"there is no run {name!r}", where=str(root), hint=_what_there_is(name, runs))


def _what_there_is(name: str, runs: list[RunDirectory]) -> str:
    if not runs:
        return "There are no runs there; --run-root names another directory."
    names = list(dict.fromkeys(run.path.parent.name for run in runs))
    near = difflib.get_close_matches(name, [*names, *(run.path.name for run in runs)], n=3) or names[:5]
    return f"Did you mean: {', '.join(near)}? `launcher status` lists the runs; --run-root names another directory."
