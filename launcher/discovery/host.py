"""The shell, the machine, the allocation and the clock, asked once."""

import getpass
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import PlaceError


@dataclass(frozen=True)
class Allocation:
    """The Slurm allocation that this shell is in; numbers are None where Slurm does not tell them."""

    job_id: str
    nodes: int
    gpus_per_node: int | None
    tasks_per_node: int | None
    """As salloc was asked for with --ntasks-per-node."""
    cpus_per_node: int | None
    """Of the node that has the fewest."""


@dataclass(frozen=True)
class HostContext:
    """Everything that a plan may depend on besides the request itself."""

    directory: Path
    """Where the command was given."""

    environ: Mapping[str, str]
    """The submitting shell's variables."""

    python: str
    """The interpreter that runs the launcher."""

    user: str
    hostname: str
    now: float
    """Seconds since the epoch."""

    run_id: str
    """Of a new run: its time and four random hexadecimal digits."""

    has_slurm: bool
    """Whether srun and sbatch are on the PATH."""

    gpus: int
    """NVIDIA devices of this machine, as far as CUDA_VISIBLE_DEVICES lets a program see them."""

    allocation: Allocation | None


def detect_host(environ: Mapping[str, str] = os.environ, directory: Path | None = None) -> HostContext:
    """Ask everything. Raises PlaceError if the shell's Slurm variables make no sense."""
    now = time.time()
    path = environ.get("PATH", os.defpath)
    return HostContext(
        directory=directory or Path.cwd(),
        environ=dict(environ),
        python=sys.executable,
        user=environ.get("USER") or getpass.getuser(),
        hostname=socket.gethostname(),
        now=now,
        run_id=f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(2)}",
        has_slurm=bool(shutil.which("srun", path=path) and shutil.which("sbatch", path=path)),
        gpus=count_gpus(environ),
        allocation=read_allocation(environ),
    )


def count_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """NVIDIA devices that a program started from this shell would see."""
    there = len(list(devices.glob("nvidia[0-9]*")))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([each for each in visible.split(",") if each.strip() and not each.strip().startswith("-")]))


def read_allocation(environ: Mapping[str, str]) -> Allocation | None:
    """The allocation that Slurm's variables describe; None outside one. Raises PlaceError.

    Names: https://slurm.schedmd.com/sbatch.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES; salloc sets the same.
    """
    job = environ.get("SLURM_JOB_ID")
    if not job:
        return None
    nodes = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES")
    if not nodes or not nodes.isdigit():
        raise PlaceError(
            f"SLURM_JOB_ID is {job}, but SLURM_JOB_NUM_NODES is {nodes!r}: this shell is half in an allocation",
            hint="Unset SLURM_JOB_ID, or run the command in the shell that salloc started.",
        )
    gpus = environ.get("SLURM_GPUS_PER_NODE") or environ.get("SLURM_GPUS_ON_NODE")
    return Allocation(
        job_id=job,
        nodes=int(nodes),
        gpus_per_node=_last_number(gpus),
        tasks_per_node=_last_number(environ.get("SLURM_NTASKS_PER_NODE")),
        cpus_per_node=_fewest(environ.get("SLURM_JOB_CPUS_PER_NODE")),
    )


def _fewest(text: str | None) -> int | None:
    """The smallest of a list such as `72(x2),36`."""
    counts = re.findall(r"(?:^|,)(\d+)", text or "")
    return min(map(int, counts), default=None)


def _last_number(text: str | None) -> int | None:
    """`8` and `h100:8` are 8; anything else is unknown."""
    tail = (text or "").rpartition(":")[2]
    return int(tail) if tail.isdigit() else None
