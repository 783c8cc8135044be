"""How this rank was started: the time that took, its MPI, its Python."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .. import sources
from .expected import Expected

_SLOW_START_S = 300.0

_MPI_VARIABLES = {"pmix": "PMIX_RANK", "pmi2": "PMI_FD"}
"""Variable that each MPI plugin of Slurm sets for a task. Source: src/plugins/mpi."""


def started_check(seconds: Optional[float], expected: Expected) -> Check:
    """Report the time from the job's script to this program: with a container, mostly that of unpacking."""
    inside = expected.container
    name = "container" if inside else "start"
    what = f"{expected.runtime} container" if inside else "bare machine"
    if seconds is None:
        return skip(name, "the start time of the job's script is not known", what)
    value = f"{what} after {max(seconds, 0):.1f} s"
    if seconds > _SLOW_START_S:
        return warn(
            name,
            value,
            "the image is unpacked slowly",
            "keep the image on a fast file system and scratch on the node's own disk; see `launcher help images`",
            seconds,
        )
    return ok(name, value, seconds)


def script_began(run_dir: Path) -> Optional[float]:
    """Return when the job took the lease of the run, which is the first thing that sbatch.sh does."""
    try:
        return (run_dir / "lease").stat().st_mtime
    except OSError:
        return None


def mpi_check(environ: Mapping[str, str], expected: Expected) -> Check:
    """Check that srun's MPI plugin reached the task."""
    name = "mpi"
    kind = expected.mpi
    if kind is None or kind == "none":
        return skip(name, "the profile sets no MPI plugin")
    variable = next((each for prefix, each in _MPI_VARIABLES.items() if kind.startswith(prefix)), None)
    if variable is None:
        return skip(name, f"the launcher does not know which variables {kind} sets")
    if variable not in environ:
        return fail(
            name,
            "missing",
            f"--mpi={kind}, but {variable} is not in the rank's environment",
            "look for errors of the plugin in slurmd's log; in a container the runtime's hook must pass it on",
        )
    return ok(name, kind)


def python_check(version: "tuple[int, ...]" = sys.version_info[:3]) -> Check:
    """Check the ranks' interpreter: Python 3.10 or later."""
    name = "python"
    value = ".".join(map(str, version))
    if version < (3, 10):
        return fail(
            name,
            value,
            "the launcher needs Python 3.10 in the job",
            "set another interpreter with python in the profile",
        )
    return ok(name, value)


def stack_check() -> Check:
    """Check that the ranks' interpreter finds what training imports."""
    name = "training stack"
    lacking = sources.missing()
    found = ", ".join(each for each in sources.STACK if each not in lacking)
    if lacking:
        return warn(
            name,
            f"no {', '.join(lacking)}",
            f"{sys.executable} has no {', '.join(lacking)}, so it cannot train with Megatron",
            "name an image that has them, or another interpreter with python in the profile; "
            "see `launcher help requirements`",
        )
    return ok(name, found)


def facts() -> "dict[str, str]":
    """Return what should be the same on all nodes."""
    return {"kernel": platform.release(), "architecture": platform.machine(), "python": platform.python_version()}
