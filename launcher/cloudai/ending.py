"""`end_post_comp`: a test that ends when another one has: by a small job that Slurm starts at that moment."""

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher._util.shell import LocalShell
from launcher.cloudai import exec_mode
from launcher.cloudai.exec_mode import ExecCase
from launcher.cloudai.models import System
from launcher.contract import files
from launcher.rundir import RunDirectory
from launcher.slurm.submit import find_submission, submit
from launcher.watch.cancel import cancel_run

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=10
#SBATCH --dependency=afterany:{jobs}
# Ends runs whose test was to go on only as long as another one. Both commands make sure that a job is the run's.
{commands}
"""


def end_with(
    test: str, ended: Sequence[RunDirectory | ExecCase], by: Sequence[str], root: Path, system: System
) -> str | None:
    """Submit the job that ends the runs `ended` of a test once the jobs `by` are over, once; return its number.

    It goes to the partition and the account of the system, as the runs do.

    Raises SlurmError, DiskError.
    """
    if not ended or not by:
        return None
    name = f"end-{re.sub(r'[^A-Za-z0-9_.-]+', '-', test)}"
    # The name of the results' directory has the second at which it was made.
    token = f"launcher-{name}-{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]}"
    shell = LocalShell()
    path = root / "ending" / f"{name}.sh"
    if path.exists() and (known := find_submission(token, shell)) is not None:
        return known.job
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = [str(one.path) for one in ended if isinstance(one, RunDirectory)]
    cases = [str(one.directory) for one in ended if isinstance(one, ExecCase)]
    python = sys.executable
    commands = [[python, "-c", "from launcher.cli.main import console; console()", "cancel", *runs]] if runs else []
    commands += [[python, "-m", "launcher.cloudai.exec_mode", *cases]] if cases else []
    text = _SCRIPT.format(name=name, jobs=":".join(by), commands="\n".join(map(shlex.join, commands)))
    files.write_text(path, text)
    options = [f"--output={path.with_suffix('.log')}", f"--partition={system.default_partition}"]
    options += [f"--account={system.account}"] if system.account else []
    return submit(path, shell, token=token, options=options, cwd=path.parent).job


def end_now(ended: Sequence[RunDirectory | ExecCase], warn: Callable[[str], None]) -> None:
    """End runs that are still going, each once it is certain that the job is its own; one that cannot be is named."""
    shell = LocalShell()
    for one in ended:
        try:
            if isinstance(one, ExecCase):
                exec_mode.cancel(one, shell)
            else:
                cancel_run(one, shell)
        except LauncherError as error:
            warn(f"{one.directory if isinstance(one, ExecCase) else one.path} was not ended: {error.message}")
