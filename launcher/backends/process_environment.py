"""Environments of the programs that the launcher starts: nothing is inherited that the plan does not name."""

from collections.abc import Mapping

from launcher.planning.model import Plan
from launcher.planning.task import TaskPlan

# What Slurm's own commands read: where the cluster is, and how to prove who asks.
SLURM_CLIENT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "MUNGE_SOCKET")


def inherited(plan: Plan | TaskPlan, shell: Mapping[str, str]) -> dict[str, str]:
    """The submitting shell's variables that the plan passes on, with their values."""
    names = {variable.name for variable in plan.environment if variable.scope == "inherited"}
    return {name: shell[name] for name in sorted(names) if name in shell}


def for_job(plan: Plan, shell: Mapping[str, str]) -> dict[str, str]:
    """For sbatch: what the plan passes on, and what Slurm's commands need.

    Variables of an allocation that this shell happens to be in, and SBATCH_* and SRUN_* options, do not reach the job.
    """
    return {**inherited(plan, shell), **{name: shell[name] for name in SLURM_CLIENT if name in shell}}


def for_allocation(plan: Plan, shell: Mapping[str, str]) -> dict[str, str]:
    """For sbatch.sh inside this allocation: the same with the allocation's own variables."""
    allocation = {name: value for name, value in shell.items() if name.startswith(("SLURM_", "SLURMD_"))}
    return {**allocation, **for_job(plan, shell)}
