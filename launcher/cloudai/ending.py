"""`end_post_comp`: a test that ends when another one has: by a small job that Slurm starts at that moment."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher._util.shell import LocalShell
from launcher.cloudai.models import System
from launcher.contract import files
from launcher.rundir import RunDirectory
from launcher.slurm.submit import find_submission, submit

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=10
#SBATCH --dependency=afterany:{jobs}
# Ends runs whose test was to go on only as long as another one. `launcher cancel` makes sure that a job is the run's.
exec {python} -c 'from launcher.cli.main import console; console()' cancel {runs}
"""


def end_with(ended: Sequence[RunDirectory], by: Sequence[str], root: Path, system: System) -> str | None:
    """Submit the job that ends the runs `ended` once the jobs `by` are over, once; return its number.

    It goes to the partition and the account of the system, as the runs do.

    Raises SlurmError, DiskError.
    """
    if not ended or not by:
        return None
    name = f"end-{ended[0].path.parent.name}"
    token = f"launcher-{name}-{ended[0].path.name}"
    shell = LocalShell()
    path = root / "ending" / f"{name}.sh"
    if path.exists() and (known := find_submission(token, shell)) is not None:
        return known.job
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _SCRIPT.format(
        name=name,
        jobs=":".join(by),
        python=shlex.quote(sys.executable),
        runs=shlex.join(str(run.path) for run in ended),
    )
    files.write_text(path, text)
    options = [f"--output={path.with_suffix('.log')}", f"--partition={system.default_partition}"]
    options += [f"--account={system.account}"] if system.account else []
    return submit(path, shell, token=token, options=options, cwd=path.parent).job
