"""The host context: the shell, the machine, the Slurm allocation and the clock, read once."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from launcher._util.errors import PrerequisiteError
from launcher.contract.frozen import dataclass


@dataclass(frozen=True)
class ShellJob:
    """The Slurm job that this shell is in, by the variables that Slurm has set; the controller knows what it has."""

    job_id: str
    step_id: str | None = None
    """The step of the job that this shell is, as in `srun --pty bash`; None in a shell of salloc or a batch script."""
    step_tasks: int = 1
    """The number of tasks of that step, each of which is such a shell."""


@dataclass(frozen=True)
class HostContext:
    """What a plan may depend on besides the request: this shell and this machine."""

    directory: Path
    """The directory in which the command was given."""

    environ: Mapping[str, str]
    """The submitting shell's variables."""

    python: str
    """The interpreter that runs the launcher."""

    user: str
    hostname: str
    now: float
    """Seconds since the epoch."""

    run_id: str
    """The id of a new run: its time and twelve random hexadecimal digits."""

    nonce: str
    """Random, for the one submission that this process may make."""

    has_slurm: bool
    """Whether srun and sbatch are on the PATH."""

    gpus: int
    """Number of NVIDIA devices of this machine that CUDA_VISIBLE_DEVICES makes visible."""

    job: ShellJob | None


def detect_host(environ: Mapping[str, str] = os.environ, directory: Path | None = None) -> HostContext:
    """Read the host context. Raises PrerequisiteError if the shell's Slurm variables contradict each other."""
    now = time.time()
    path = environ.get("PATH", os.defpath)
    return HostContext(
        directory=directory or Path.cwd(),
        environ=dict(environ),
        python=sys.executable,
        user=environ.get("USER") or _user(),
        hostname=os.uname().nodename,
        now=now,
        run_id=new_run_id(now),
        nonce=os.urandom(6).hex(),
        has_slurm=bool(shutil.which("srun", path=path) and shutil.which("sbatch", path=path)),
        gpus=count_gpus(environ),
        job=read_job(environ),
    )


def _user() -> str:
    import getpass

    return getpass.getuser()


def new_run_id(now: float) -> str:
    """Return an id for a run that begins at `now`: 48 random bits tell it from others of the same second."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{os.urandom(6).hex()}"


def count_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Count the NVIDIA devices that a program started from this shell would see."""
    installed = len(list(devices.glob("nvidia[0-9]*")))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return installed
    named = [each for each in visible.split(",") if each.strip() and not each.strip().startswith("-")]
    return min(installed, len(named))


def read_job(environ: Mapping[str, str]) -> ShellJob | None:
    """Return the job that Slurm's variables name; None outside one.

    Raises PrerequisiteError if SLURM_JOB_ID is set without a number of nodes, which only a heterogeneous job has for
    each of its components. Source of the names, which salloc sets as
    well: https://slurm.schedmd.com/sbatch.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES.
    """
    job = environ.get("SLURM_JOB_ID")
    if not job:
        return None
    nodes = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES")
    if not environ.get("SLURM_HET_SIZE") and (not nodes or not nodes.isdigit()):
        raise PrerequisiteError(
            f"SLURM_JOB_ID is {job}, but SLURM_JOB_NUM_NODES is {nodes!r}: this shell has only some variables of "
            "an allocation",
            hint="Unset SLURM_JOB_ID, or run the command in the shell that salloc started.",
        )
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    step = environ.get("SLURM_STEP_ID") or None
    return ShellJob(job, step, int(tasks) if step and tasks.isdigit() else 1)
