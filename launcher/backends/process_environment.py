"""Environments of the programs that the launcher starts: only what the plan names is inherited."""

from collections.abc import Mapping

from launcher.planning.model import Plan
from launcher.planning.task import TaskPlan

# Variables that Slurm's own commands read: where the cluster is, and how to authenticate.
SLURM_CLIENT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "MUNGE_SOCKET")


def inherited(plan: Plan | TaskPlan, shell: Mapping[str, str]) -> dict[str, str]:
    """Return the submitting shell's variables that the plan passes on, with their values."""
    names = {variable.name for variable in plan.environment if variable.scope == "inherited"}
    return {name: shell[name] for name in sorted(names) if name in shell}


def for_job(plan: Plan, shell: Mapping[str, str]) -> dict[str, str]:
    """Return sbatch's environment: what the plan passes on, and what Slurm's commands need.

    Variables of an allocation that this shell may be in, and SBATCH_* and SRUN_* options, do not reach the job.
    """
    return {**inherited(plan, shell), **{name: shell[name] for name in SLURM_CLIENT if name in shell}}


def for_allocation(plan: Plan, shell: Mapping[str, str]) -> dict[str, str]:
    """Return sbatch.sh's environment inside this allocation: that of a job, and the allocation's own variables."""
    allocation = {name: value for name, value in shell.items() if name.startswith(("SLURM_", "SLURMD_"))}
    return {**allocation, **for_job(plan, shell)}
