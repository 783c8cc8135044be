"""How this rank came to run: the time that its start took, its MPI, its Python."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected

_SLOW_START_S = 300.0

_MPI_VARIABLES = {"pmix": "PMIX_RANK", "pmi2": "PMI_FD"}
"""What a plugin of Slurm's sets for each task (src/plugins/mpi)."""


def started_check(seconds: Optional[float], expected: Expected) -> Check:
    """From the beginning of the job's script to this program: with a container, mostly the time to unpack it."""
    inside = expected.container
    name = "container" if inside else "start"
    what = f"{expected.runtime} container" if inside else "bare machine"
    if seconds is None:
        return skip(name, "when the job's script began is not known", what)
    value = f"{what} after {max(seconds, 0):.1f} s"
    if seconds > _SLOW_START_S:
        return warn(
            name,
            value,
            "the image is unpacked slowly",
            "keep the image on a fast file system and scratch on the node's own disk; see docs/how-to/images.md",
            seconds,
        )
    return ok(name, value, seconds)


def script_began(run_dir: Path) -> Optional[float]:
    """When the newest submission was claimed: the first thing that sbatch.sh does."""
    times = [path.stat().st_mtime for path in (run_dir / "claims").glob("submission-*")]
    return max(times, default=None)


def mpi_check(environ: Mapping[str, str], expected: Expected) -> Check:
    """Whether srun's MPI plugin reached the task."""
    name = "mpi"
    kind = expected.mpi
    if kind is None or kind == "none":
        return skip(name, "the profile asks for no MPI plugin")
    variable = next((each for prefix, each in _MPI_VARIABLES.items() if kind.startswith(prefix)), None)
    if variable is None:
        return skip(name, f"which variables {kind} sets is not known here")
    if variable not in environ:
        return fail(
            name,
            "missing",
            f"--mpi={kind}, and {variable} is not in the rank's environment",
            "see that slurmd's log has no error of the plugin; in a container the runtime's hook has to pass it on",
        )
    return ok(name, kind)


def python_check(version: "tuple[int, ...]" = sys.version_info[:3]) -> Check:
    """The interpreter of the ranks: 3.10 or later."""
    name = "python"
    value = ".".join(map(str, version))
    if version < (3, 10):
        return fail(name, value, "the launcher's half in the job needs 3.10", "name another with python in the profile")
    return ok(name, value)


def facts() -> "dict[str, str]":
    """What should be the same on all nodes."""
    return {"kernel": platform.release(), "architecture": platform.machine(), "python": platform.python_version()}
