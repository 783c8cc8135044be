"""Commands that change jobs, and names of nodes."""

from collections.abc import Sequence

from launcher._util.errors import SlurmError
from launcher._util.shell import Shell
from launcher.slurm.ask import ask, first_error
from launcher.slurm.queue import in_cluster

# Slurm's messages about a job that has ended already: there is nothing left to end.
_GONE = ("Invalid job id", "Job/step already completing or completed")


def cancel(jobs: Sequence[str], shell: Shell, *, cluster: str | None = None) -> None:
    """End jobs, waiting or running; jobs that have ended already are left as they are.

    `cluster` is Slurm's name of their cluster where it is not the local one.

    Raises SlurmError, SlurmUnavailableError.
    """
    if not jobs:
        return
    result = ask(["scancel", *in_cluster(cluster), *jobs], shell)
    if result.status != 0 and not any(words in result.stderr for words in _GONE):
        raise SlurmError(f"scancel: {first_error(result)}")


def hostnames(nodelist: str, shell: Shell) -> tuple[str, ...]:
    """Return the node names of a list: n1, n2, n4 for `n[1-2,4]`. Only Slurm itself reads every form of a list right.

    Raises SlurmError, SlurmUnavailableError.
    """
    result = ask(["scontrol", "show", "hostnames", nodelist], shell)
    if result.status != 0 or not result.stdout.strip():
        # "Invalid hostlist" comes with exit status 0 (22.05).
        raise SlurmError(f"scontrol: {first_error(result)}")
    return tuple(result.stdout.split())
