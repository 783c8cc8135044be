"""Submission with sbatch, exactly once: without an answer it may have succeeded, so the job is looked for first."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from launcher._util.errors import CommandError, MissingProgramError, RequestError, SlurmError
from launcher._util.shell import Result, Shell
from launcher.contract.frozen import dataclass
from launcher.slurm.ask import (
    SlurmUnavailableError,
    answer,
    failed_silently,
    first_error,
    require_configuration,
    unavailable_line,
)
from launcher.slurm.queue import in_cluster

_TIMEOUT_S = 150.0
"""sbatch itself tries again for up to two minutes while the controller's queue is full."""

ARRAY_MARK = "launcher-array:"
"""Beginning of the tokens of job arrays."""

NEVER_ARRIVED = ("connect failure", "Connection refused", "Could not establish a configuration source", "Munge encode")
"""Parts of messages without an answer which say that the request was not even sent."""

_UNKNOWN_USER = "Slurm does not know you on this cluster; its administrators do that."
_OF_SEGMENTS = (
    "Ask for other segments with --sbatch segment=NODES, or for none with --unset-sbatch segment. The segment has to\n"
    "divide the nodes and to fit into a block (`scontrol show topology`); before 25.11 --nodelist goes with one only."
)

_OF_THE_REQUEST: tuple[tuple[str, str], ...] = (
    ("nvalid partition", "Name an existing one with --partition; `sinfo -s` lists them."),
    ("nvalid account", "Name one with --account; `sacctmgr -nP show assoc where user=$USER` lists yours."),
    ("nvalid qos", "Name one with --qos; `sacctmgr -nP show qos format=name` lists them."),
    ("time limit is invalid", "Ask for less with --time; `sinfo -o '%P %l'` shows each partition's limit."),
    ("nvalid --time", "Write --time as minutes, H:MM:SS or D-HH:MM:SS."),
    (
        "node configuration is not available",
        "No node has that many GPUs, CPUs or that much memory; `sinfo -o '%P %D %c %m %G'` shows what there is.",
    ),
    ("Node count specification invalid", "Ask for fewer nodes with --nodes; `sinfo -o '%P %D %s'` shows the limits."),
    ("More processors requested than permitted", "The partition has not that many; see `sinfo -o '%P %D %c %G'`."),
    ("partition configuration not available", "The partition cannot run this now; `sinfo` shows its state and limits."),
    ("nvalid node name", "--nodelist and --exclude take names that `sinfo -N` lists."),
    ("nodes not in this partition", "Choose nodes of the partition: `sinfo -N -p PARTITION`."),
    (
        "nvalid generic resource",
        "This cluster has no such resource; `sinfo -o '%G'` lists them. --unset-sbatch KEY leaves the option out.",
    ),
    ("nvalid feature", "`sinfo -o '%f'` lists the features."),
    ("eservation", "`scontrol show reservation` lists reservations and who may use them."),
    (
        "violates accounting/QOS policy",
        "Too large, too long or too many jobs for your account or QOS; see `sacctmgr show qos`.",
    ),
    ("nvalid license", "`scontrol show licenses` lists them."),
    ("ependency", "A job of --dependency is wrong or has ended already."),
    ("emory specification", "Ask for less memory, or leave it to the site with --unset-sbatch mem."),
    ("unrecognized option", "This Slurm does not know the option; --unset-sbatch KEY leaves out one of the profile's."),
    ("nvalid wckey", "Give a key of yours: --sbatch wckey=KEY."),
    (
        "Access/permission denied",
        "You may not submit there: ask for access, or choose another --partition or --account.",
    ),
    ("nvalid --", "See `man sbatch` for the values that this option takes."),
    ("nvalid specification", "See `man sbatch` for the values that this option takes."),
    ("CPU count per node", "No node has that many CPUs; see `sinfo -o '%P %c'`."),
    ("oo many", "Ask for less."),
    ("o partition specified", "Name one with --partition; `sinfo -s` lists them."),
    ("nvalid numeric value", "See `man sbatch` for the values that this option takes."),
    ("requires an argument", "See `man sbatch` for the values that this option takes."),
    ("nvalid node count", "Ask for another number with --nodes; `sinfo -o '%P %D %s'` shows the limits."),
    ("nvalid user id", _UNKNOWN_USER),
    ("nvalid user ID", _UNKNOWN_USER),  # as 24.11 words it
    ("topology configuration is not available", _OF_SEGMENTS),
    ("nodes do not fit topology", _OF_SEGMENTS),
    ("topology unit found for segment", _OF_SEGMENTS),
    ("does not fit the job size", _OF_SEGMENTS),
    ("nvalid node list", "--nodelist and --exclude take names that `sinfo -N` lists."),
    ("mutually exclusive", "--unset-sbatch KEY leaves out one of the options that the profile or --sbatch gives."),
)
"""Parts of refusals that the same request would meet again, with hints.

Source: src/common/slurm_errno.c, src/common/slurm_opt.c and src/sbatch/opt.c of Slurm 22.05 to 26.05.
"""


_OF_GPUS = ("gres", "gpus-per-node", "gpus", "gpus-per-task", "gpus-per-socket")

_UNKNOWN = (
    "Slurm gives no reason that is known to be one of the request; nothing was submitted. Another try may succeed.\n"
    "If it does not, ask those who run this cluster: a check of the site (job_submit plugin) may refuse without words."
)
_OF_THE_SITE = (
    "The words are Slurm's, or those of a check of this site (job_submit plugin). Options that it asks for are\n"
    "--account, --partition, --qos, --time and --sbatch KEY=VALUE; --unset-sbatch KEY leaves one out."
)

_QUEUE_FULL = "You or your account have as many jobs in the queue as is allowed: submit it when some have ended."
_OF_SLURM: tuple[tuple[str, str], ...] = (
    ("I/O error", ""),
    ("writing script", ""),
    ("No space left", ""),
    ("Unable to allocate resources: Unspecified", ""),
    ("memory allocation", ""),
    ("Slurm is not", ""),
    ("Required node not available", ""),
    ("Required partition not available", ""),
    ("Requested nodes are busy", ""),
    ("reservation not usable now", ""),
    ("Resources are not", ""),
    ("Job limit exceeded", _QUEUE_FULL),
    ("MaxJobCount limit reached", "Slurm holds as many jobs as it can: submit it when some have ended."),
    ("Rate limit exceeded", "Slurm's controller asks to wait a moment."),
    ("Unable to open file", ""),
    ("Too many open files", ""),
    ("try again later", ""),
)
"""Parts of Slurm's reasons that say nothing about the request: the same one may be accepted later."""

LIMIT_OF_QUEUE = re.compile(r"\b(?:Assoc|QOS)(?:Max|Grp)SubmitJobs?\w*Limit\b")
"""Slurm's name of such a limit, in a line of its own before `Job violates accounting/QOS policy`."""

_FAILED = "Batch job submission failed: "
_WITHOUT_REASON = "Unspecified error"
_FATAL = "sbatch ended before it asked Slurm. `scontrol ping` shows whether Slurm's commands work here."
_UNRECOGNIZED = re.compile(r"unrecognized option '--([a-z-]+)")
_NAMED = re.compile(r"--([a-z-]+)")
_WARNING = "sbatch: warning: "
"""Of sbatch itself, which goes on then: no reason for what comes after it."""


class SubmissionUnknownError(SlurmError):
    """Neither sbatch nor the search for the job got an answer: it may exist, and must not be submitted again yet."""


@dataclass(frozen=True)
class Submission:
    """A job that Slurm has accepted. `cluster` is set where Slurm names one (several clusters)."""

    job: str
    cluster: str | None = None
    recovered: bool = False
    """sbatch reported no success, but the job was found in the queue."""


def submit(
    script: Path,
    shell: Shell,
    *,
    token: str,
    clusters: str | None = None,
    options: Sequence[str] = (),
    rendered: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    patience_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Submission:
    """Submit a batch script and return the job.

    `token` must be in no other job. The script gets it as an argument, so that Slurm shows it as part of the job's
    command, which no site rewrites as some do with comments: it identifies the job where sbatch got no answer.
    `clusters` are those that the script names besides
    the local one, `rendered` the long names of its options. Raises RequestError with sbatch's message where Slurm
    refused the request, SubmissionUnknownError where the job may exist, SlurmError where it does not.
    """
    require_configuration()
    result = None
    try:
        argv = ["sbatch", "--parsable", *options, str(script), token]
        result = shell.run(argv, env=env, cwd=cwd, check=False, timeout_s=_TIMEOUT_S)
        words = first_error(result) if result.status else "it printed no job id"
    except CommandError as error:
        if isinstance(error, MissingProgramError):
            raise SlurmError(error.message, hint="Submit where Slurm's commands are: a login node.") from error
        words = error.message
    if result is not None and result.status == 0 and (submission := parse_submission(result.stdout)):
        return submission
    if result is not None and result.status != 0 and not _may_exist(result):
        raise refusal(result, [*rendered, *(option.lstrip("-").partition("=")[0] for option in options)])
    found = search(token, shell, clusters=clusters, patience_s=patience_s, clock=clock, sleep=sleep)
    if found is None:
        raise SlurmError(f"sbatch: {words}", hint="Slurm answers again and does not have the job: submit it again.")
    return found


def parse_submission(text: str) -> Submission | None:
    """Return the job (and cluster) that `sbatch --parsable` printed, whatever a site's plugins print around it."""
    for line in reversed(text.splitlines()):
        if match := re.fullmatch(r"\s*(\d+)(?:;(\S+))?\s*", line):
            return Submission(match[1], match[2])
    return None


def refusal(result: Result, rendered: Sequence[str] = ()) -> RequestError | SlurmError:
    """Return the error for sbatch's refusal, with its message and a hint.

    `rendered` are the long names of the job's options. It is a RequestError where Slurm is known to refuse the request
    itself, or a check of the site (job_submit or cli_filter plugin) says why it does: both would do so again. Anything
    else is a SlurmError: another try may succeed.
    """
    words = first_error(result)
    if unavailable_line(result.stderr):
        return SlurmError(f"sbatch: {words}", hint="Slurm's controller is not reachable; nothing was submitted.")
    reasons = [reason for line in result.stderr.splitlines() if (reason := line.partition(_FAILED)[2].strip())]
    passing = _QUEUE_FULL if LIMIT_OF_QUEUE.search(words) else _hint_in(_OF_SLURM, "; ".join(reasons) or words)
    if passing is not None:
        return SlurmError(f"sbatch: {words}", hint=passing or "Slurm could not queue the job; nothing was submitted.")
    hint = _hint_in(_OF_THE_REQUEST, words)
    if hint is None and "fatal:" in words:
        return SlurmError(f"sbatch: {words}", hint=_FATAL)
    if hint is None and not _site_has_said_why(result.stderr, reasons):
        return SlurmError(f"sbatch: {words}", hint=_UNKNOWN)
    if "eneric resource" in words and (asks_for := [option for option in _OF_GPUS if option in rendered]):
        hint = f"This cluster has no such resource; `sinfo -o '%G'` lists them. {_without(asks_for)}"
    if "mutually exclusive" in words and (named := [option for option in _NAMED.findall(words) if option in rendered]):
        hint = f"Leave one of them out: {' or '.join(f'--unset-sbatch {option}' for option in named)}."
    if unknown := [option for option in _UNRECOGNIZED.findall(words) if option in rendered]:
        hint = f"This Slurm is too old or too new to know the option (`sbatch --version`). {_without(unknown)}"
    return RequestError(f"sbatch refused the job: {words}", hint=hint or _OF_THE_SITE)


def _without(options: Sequence[str]) -> str:
    """Return how to leave options out of the job."""
    unset = " ".join(f"--unset-sbatch {option}" for option in options)
    directives = ", ".join(f"{option} = false" for option in options)
    return f"{unset} leaves it out for this job, {directives} below [directives] of the cluster profile for every job."


def _hint_in(table: Sequence[tuple[str, str]], words: str) -> str | None:
    """Return the hint for the first part of the table that is in the message; None where none is."""
    return next((hint for part, hint in table if part in words), None)


def _site_has_said_why(stderr: str, reasons: Sequence[str]) -> bool:
    """Return whether a refusal has words of its own, and Slurm adds no reason.

    slurm.log_user() of a job_submit plugin prints a line before Slurm's `Batch job submission failed: Unspecified
    error`; a cli_filter plugin, and sbatch itself where it does not understand an option, print no such line.
    """
    own = [line for line in stderr.splitlines() if line.strip() and _FAILED not in line and _WARNING not in line]
    return bool(own) and all(reason == _WITHOUT_REASON for reason in reasons)


def find_submission(token: str, shell: Shell, clusters: str | None = None) -> Submission | None:
    """Return the job that has `token` in its comment, name or command, ended or not; None if Slurm has no such job.

    `clusters` are Slurm's names of clusters to search in place of the local one, separated by commas.

    Raises SlurmUnavailableError.
    """
    return find_submissions([token], shell, clusters).get(token)


def find_submissions(tokens: Iterable[str], shell: Shell, clusters: str | None = None) -> dict[str, Submission]:
    """Return the jobs of several tokens, as `find_submission` finds one, with one squeue and at most one sacct.

    That of a job array is its number without an index, whichever task Slurm shows. Raises SlurmUnavailableError.
    """
    # run-1 is not in run-10
    wanted = {token: re.compile(rf"(?<![\w-]){re.escape(token)}(?![\w-])") for token in tokens}
    found: dict[str, Submission] = {}
    number = "JobID" if any(token.startswith(ARRAY_MARK) for token in wanted) else "JobIDRaw"
    for argv in (
        ["squeue", *in_cluster(clusters), "--me", "--noheader", "--states=all", "--format=%i|%k|%j|%o"],
        [
            "sacct",
            *in_cluster(clusters),
            "--allocations",
            "--parsable2",
            "--noheader",
            "--starttime=now-1day",
            f"--format={number},{'Cluster,' if clusters else ''}Comment,JobName,SubmitLine",
        ],
    ):
        if not wanted:
            break
        try:
            text = answer(argv, shell)
        except SlurmUnavailableError:
            if argv[0] == "squeue":
                raise
            break
        except SlurmError:
            continue  # without accounting only the queue can have it
        cluster = None
        for line in text.splitlines():
            if line.startswith("CLUSTER: "):
                cluster = line.removeprefix("CLUSTER: ").strip()
            job, _, rest = line.partition("|")
            if clusters and argv[0] == "sacct":
                cluster, _, rest = rest.partition("|")
            for token in [token for token, whole in wanted.items() if whole.search(rest)]:
                job = job.strip().partition("_")[0] if token.startswith(ARRAY_MARK) else job.strip()
                found[token] = Submission(job, cluster or _only(clusters), recovered=True)
                del wanted[token]
    return found


def search(
    token: str,
    shell: Shell,
    *,
    clusters: str | None = None,
    patience_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Submission | None:
    """Look for a submission that got no answer until it is found or cannot arrive any more.

    Returns None once Slurm has answered for more than its MessageTimeout without such a job: it may be submitted again.
    Raises SubmissionUnknownError if Slurm does not answer for `patience_s`.
    """
    begin = clock()
    absent_since: float | None = None
    message_timeout_s: float | None = None
    while True:
        try:
            found = find_submission(token, shell, clusters)
            if found is not None:
                return found
            if message_timeout_s is None:
                message_timeout_s = _message_timeout_s(shell)
            absent_since = clock() if absent_since is None else absent_since
            if clock() - absent_since > message_timeout_s:
                return None
        except SlurmUnavailableError as error:
            absent_since = None
            if clock() - begin > patience_s:
                raise SubmissionUnknownError(
                    f"sbatch got no answer, and the job cannot be looked for either ({error.message}): it may exist",
                    hint=f"When Slurm answers again, `squeue --me -o '%i %k %j' | grep {token}` shows whether it does.",
                ) from error
        sleep(1.0)


def _only(clusters: str | None) -> str | None:
    """Return the cluster if one is named; of several only Slurm knows which one took the job."""
    return clusters if clusters and "," not in clusters else None


def _may_exist(result: Result) -> bool:
    """Return whether a job may exist although sbatch failed: no answer came to its message, or it said nothing."""
    words = unavailable_line(result.stderr)
    if failed_silently(result):
        return True
    return words is not None and not any(part in words for part in NEVER_ARRIVED)


def _message_timeout_s(shell: Shell) -> float:
    match = re.search(r"^MessageTimeout\s*=\s*(\d+)", answer(["scontrol", "show", "config"], shell), re.MULTILINE)
    return float(match[1]) if match else 10.0
