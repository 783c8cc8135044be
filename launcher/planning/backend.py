"""The backends as a plan sees them: what each has. launcher/backends carries them out."""

from collections.abc import Mapping
from typing import Literal

from launcher.contract.frozen import dataclass

BackendName = Literal["local", "allocation", "batch"]


@dataclass(frozen=True)
class BackendTraits:
    """What planning asks of a backend. Plans and records hold its name alone."""

    name: BackendName
    title: str
    """What it does, for people."""
    slurm_step: bool
    """Whether sbatch.sh starts the ranks as a step of Slurm; otherwise the launcher starts them as its own children."""
    current_allocation: bool
    """Whether the ranks run in the allocation that this shell is in."""
    own_job: bool
    """Whether the run gets a Slurm job of its own, and so an allocation by its own sbatch options."""


LOCAL = BackendTraits("local", "processes on one machine", slurm_step=False, current_allocation=False, own_job=False)
ALLOCATION = BackendTraits(
    "allocation", "step in an allocation", slurm_step=True, current_allocation=True, own_job=False
)
BATCH = BackendTraits("batch", "batch job", slurm_step=True, current_allocation=False, own_job=True)

BACKENDS: Mapping[str, BackendTraits] = {traits.name: traits for traits in (LOCAL, ALLOCATION, BATCH)}
