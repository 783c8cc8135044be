"""The choice of the cluster profile and the backend where a request does not name them."""

from launcher._util.errors import PrerequisiteError
from launcher.config.cluster import Cluster
from launcher.config.load import ON_HOST
from launcher.discovery.host import HostContext
from launcher.planning.backend import ALLOCATION, BATCH, LOCAL, BackendTraits


def default_cluster(host: HostContext) -> str:
    """Return the name of the profile of a request that does not name one."""
    return "slurm" if host.has_slurm or host.job else "local"


def is_elsewhere(cluster: Cluster, host: HostContext) -> bool:
    """Return whether this machine reaches the cluster by ssh: it is not the host that the profile names."""
    if cluster.ssh is None or host.environ.get(ON_HOST):
        return False
    named = cluster.ssh.host.rpartition("@")[2].partition(":")[0]
    return named not in (host.hostname, host.hostname.partition(".")[0])


def refuse_elsewhere(cluster: Cluster, host: HostContext) -> None:
    """Raise PrerequisiteError for a cluster that this machine reaches by ssh: the Slurm here is another one."""
    if cluster.ssh is not None and is_elsewhere(cluster, host):
        raise PrerequisiteError(
            f"the cluster profile {cluster.name!r} is of a cluster that this machine reaches by ssh",
            hint="submit, plan, status, logs, cancel and pull work from here; for anything else log in: "
            f"ssh {cluster.ssh.host}",
        )


def choose_backend(command: str, cluster: Cluster, host: HostContext) -> BackendTraits:
    """Choose the backend of `run` or `submit` on this cluster.

    Raises PrerequisiteError where the command cannot run.
    """
    refuse_elsewhere(cluster, host)
    if cluster.scheduler == "local":
        if command == "submit":
            raise PrerequisiteError(
                f"the cluster profile {cluster.name!r} has no Slurm to submit to",
                hint="Use `launcher run` on this machine, or name a cluster: --cluster slurm.",
            )
        return LOCAL
    if not host.has_slurm:
        raise PrerequisiteError(
            f"the cluster profile {cluster.name!r} needs Slurm, but srun and sbatch are not on the PATH",
            hint="Run the command on the cluster's login node, or on this machine alone: --cluster local.",
        )
    if command == "submit":
        return BATCH
    if host.job is None:
        raise PrerequisiteError(
            "this shell is not in an allocation of Slurm, so `run` has no nodes",
            hint="Make one first (salloc -N 1 --gpus-per-node=8 --exclusive) and run the command in it, submit\n"
            "a batch job (launcher submit), or run on this machine without Slurm: --cluster local.",
        )
    if host.job.step_tasks > 1:
        raise PrerequisiteError(
            f"this command runs {host.job.step_tasks} times, once in each task of a step, and starts the ranks itself",
            hint="Give it once, without srun: in the shell of salloc, or in a batch script.",
        )
    return ALLOCATION
