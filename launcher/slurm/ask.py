"""Run one command of Slurm, and keep "no" apart from "no answer"."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher._util.errors import CommandError, SlurmError
from launcher._util.shell import Result, Shell

TIMEOUT_S = 30.0
"""Longer than Slurm's own MessageTimeout (10 s unless a site says otherwise), after which its commands give up."""

UNAVAILABLE_MESSAGES = (
    "Socket timed out",
    "Unable to contact slurm controller",
    "Unable to establish controller machine",
    "Connection refused",
    "Connection timed out",
    "connection failure",
    "Zero Bytes were transmitted or received",
    "Unexpected message received",
    "slurm_persist_conn",
    "slurmdbd: Sending",
    "Could not establish a configuration source",
    "Munge encode failed",
    "Munge decode failed",
    "Protocol authentication error",
    "Resource temporarily unavailable",
    "Slurm backup controller in standby mode",
    "temporarily unable",
)
"""Parts of Slurm's messages (src/common/slurm_errno.c) which say that it did not answer: nothing is known then."""

_UNREACHABLE = (
    "Wait until Slurm's controller answers again; on a machine other than the login node, SLURM_CONF must name the "
    "cluster's slurm.conf."
)

# These change what the commands print or select. SLURM_CONF and SLURM_CLUSTERS stay: they choose the cluster.
_DISTURBING = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_", "SLURM_JOB_NAME", "SLURM_STEP")


class SlurmUnavailableError(SlurmError):
    """Slurm did not answer. Its answer is unknown, which is not the same as "no"."""


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for Slurm's commands: times in seconds since the epoch, no output settings of the user."""
    base = os.environ if base is None else base
    kept = {name: value for name, value in base.items() if not name.startswith(_DISTURBING)}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def require_configuration(environ: Mapping[str, str] | None = None) -> None:
    """Raise SlurmUnavailableError if SLURM_CONF names no file: Slurm's commands would wait a minute for it."""
    named = (os.environ if environ is None else environ).get("SLURM_CONF")
    if named and not Path(named).exists():
        raise SlurmUnavailableError(
            f"SLURM_CONF names {named}, and there is no such file",
            hint="Correct it, or leave Slurm to find its own configuration: unset SLURM_CONF.",
        )


def ask(argv: Sequence[str], shell: Shell, *, timeout_s: float = TIMEOUT_S) -> Result:
    """Run a Slurm command and return its result, also where that is an error.

    Raises SlurmUnavailableError where Slurm did not answer or the command is missing.
    """
    require_configuration()
    try:
        result = shell.run(argv, env=environment(), check=False, timeout_s=timeout_s)
    except CommandError as error:
        raise SlurmUnavailableError(error.message, hint=error.hint) from error
    if result.status != 0 and (words := unavailable_line(result.stderr)):
        raise SlurmUnavailableError(f"{argv[0]}: {words.removeprefix(f'{argv[0]}: ')}", hint=_UNREACHABLE)
    if failed_silently(result):
        raise SlurmUnavailableError(f"{argv[0]}: {first_error(result)}", hint=_UNREACHABLE)
    return result


def failed_silently(result: Result) -> bool:
    """Return whether a command failed and said nothing: clients of 26.05 sometimes do where the controller is away."""
    return result.status != 0 and not result.stderr.strip() and not result.stdout.strip()


def answer(argv: Sequence[str], shell: Shell, *, timeout_s: float = TIMEOUT_S) -> str:
    """Return the output of a Slurm command. Raises SlurmUnavailableError; SlurmError with its message if it failed."""
    result = ask(argv, shell, timeout_s=timeout_s)
    if result.status != 0:
        raise SlurmError(f"{argv[0]}: {first_error(result)}")
    return result.stdout


def unavailable_line(text: str) -> str | None:
    """Return the line which says that Slurm did not answer, or None."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if any(part in line for part in UNAVAILABLE_MESSAGES)), None)


def first_error(result: Result) -> str:
    """Return the message of a failed command, without its own name before each line."""
    program = result.argv[0]
    lines = [line.strip() for line in (result.stderr.strip() or result.stdout.strip()).splitlines()]
    words = [line.removeprefix(f"{program}: ").removeprefix("error: ") for line in lines if line]
    return "; ".join(words) or f"ended with status {result.status} without a message"
