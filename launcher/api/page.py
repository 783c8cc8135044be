"""One HTML page of a run."""

from pathlib import Path

from launcher._util.shell import LocalShell
from launcher._util.user_paths import user_path
from launcher.api.locate import find_run
from launcher.report.page.render import write_page


def make_page(name: str, *, run_root: str | None = None, output: str | None = None) -> Path:
    """Write the page of a run as it is now and return its path (default: page.html in the run directory).

    Raises RequestError, DiskError.
    """
    run = find_run(name, run_root)
    return write_page(run, LocalShell(), user_path(output, Path.cwd(), where="--output") if output else None)
