"""Changing jobs, and names of nodes."""

from collections.abc import Sequence

from launcher._util.errors import SlurmError
from launcher._util.shell import Shell
from launcher.slurm.ask import answer, ask, first_error

# Slurm's words for a job that has ended already: what was asked for is so.
_GONE = ("Invalid job id", "Job/step already completing or completed")


def cancel(jobs: Sequence[str], shell: Shell) -> None:
    """End jobs, waiting or running. Jobs that have ended already are left as they are. Raises SlurmError, NoAnswer."""
    if jobs:
        _scancel([*jobs], shell)


def send_signal(job: str, name: str, shell: Shell, *, to_batch_script: bool = False) -> None:
    """Send a signal (`TERM`, `USR1`) to every task of a running job's steps, or to its batch script alone.

    Raises SlurmError, NoAnswer.
    """
    _scancel([f"--signal={name}", *(["--batch"] if to_batch_script else []), job], shell)


def _scancel(arguments: list[str], shell: Shell) -> None:
    result = ask(["scancel", *arguments], shell)
    if result.status != 0 and not any(words in result.stderr for words in _GONE):
        raise SlurmError(f"scancel: {first_error(result)}")


def requeue(job: str, shell: Shell) -> None:
    """Send a job back to the queue. Raises SlurmError (it has ended, or was submitted with --no-requeue), NoAnswer."""
    answer(["scontrol", "requeue", job], shell)


def hostnames(nodelist: str, shell: Shell) -> tuple[str, ...]:
    """`n[1-2,4]` as n1, n2, n4: only Slurm itself reads every form of a list right. Raises SlurmError, NoAnswer."""
    result = ask(["scontrol", "show", "hostnames", nodelist], shell)
    if result.status != 0 or not result.stdout.strip():
        # "Invalid hostlist" comes with exit status 0 (22.05).
        raise SlurmError(f"scontrol: {first_error(result)}")
    return tuple(result.stdout.split())


def node_address(node: str, shell: Shell) -> str:
    """The address by which Slurm reaches a node: one, where its name may have several. Raises SlurmError, NoAnswer."""
    for line in answer(["sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%n|%o"], shell).splitlines():
        _, separator, address = line.strip().partition("|")
        if separator and address:
            return address
    raise SlurmError(f"Slurm knows no node {node!r}", hint="`sinfo -N` lists the nodes.")
