"""One question to Slurm."""

import os
from collections.abc import Mapping, Sequence

from launcher._util.errors import CommandError, SlurmError
from launcher._util.shell import Result, Shell

TIMEOUT_S = 30.0
"""Longer than Slurm's own MessageTimeout (10 s unless a site says otherwise), after which its commands give up."""

NO_ANSWER = (
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
"""Words in Slurm's messages (src/common/slurm_errno.c) which say that nobody answered: nothing is known then."""

# They change what the commands print or select. SLURM_CONF and SLURM_CLUSTERS stay: they say which cluster is meant.
_DISTURBING = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_", "SLURM_JOB_NAME", "SLURM_STEP")


class NoAnswer(SlurmError):  # noqa: N818 - it is no error of anybody's that Slurm is silent
    """Slurm did not answer: what it would have said is unknown, which is not the same as "no"."""


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a question: times in seconds since the epoch, no settings of the user's for people's eyes."""
    base = os.environ if base is None else base
    kept = {name: value for name, value in base.items() if not name.startswith(_DISTURBING)}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def ask(argv: Sequence[str], shell: Shell, *, timeout_s: float = TIMEOUT_S) -> Result:
    """Run a Slurm command and return what it said, also where that is an error.

    Raises NoAnswer where nobody answered, or the command is missing.
    """
    try:
        result = shell.run(argv, env=environment(), check=False, timeout_s=timeout_s)
    except CommandError as error:
        raise NoAnswer(error.message, hint=error.hint) from error
    if result.status != 0 and (words := no_answer(result.stderr)):
        raise NoAnswer(f"{argv[0]}: {words}")
    return result


def answer(argv: Sequence[str], shell: Shell, *, timeout_s: float = TIMEOUT_S) -> str:
    """What a Slurm command printed. Raises NoAnswer, and SlurmError with its own words where it ended with an error."""
    result = ask(argv, shell, timeout_s=timeout_s)
    if result.status != 0:
        raise SlurmError(f"{argv[0]}: {first_error(result)}")
    return result.stdout


def no_answer(text: str) -> str | None:
    """The line which says that nobody answered, or None."""
    return next((line.strip() for line in text.splitlines() if any(words in line for words in NO_ANSWER)), None)


def first_error(result: Result) -> str:
    """What a failed command said, without its own name before each line."""
    program = result.argv[0]
    lines = [line.strip() for line in (result.stderr.strip() or result.stdout.strip()).splitlines()]
    words = [line.removeprefix(f"{program}: ").removeprefix("error: ") for line in lines if line]
    return "; ".join(words) or f"ended with status {result.status} and said nothing"
