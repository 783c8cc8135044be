"""States of jobs: one squeue for all, then one sacct for the jobs that are no longer in the queue."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from launcher._util.older_python import StrEnum
from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass
from launcher.slurm.ask import SlurmUnavailableError, ask, first_error

# Free text last: it may hold the separator. Fields: https://slurm.schedmd.com/squeue.html#OPT_format
_SQUEUE = {
    "shown": "%i",
    "plain": "%A",
    "state": "%T",
    "start": "%S",
    "end": "%e",
    "submitted": "%V",
    "nodes": "%N",
    "reason": "%r",
}
_SACCT = {
    "shown": "JobID",
    "plain": "JobIDRaw",
    "state": "State",
    "exit": "ExitCode",
    "start": "Start",
    "end": "End",
    "submitted": "Submit",
    "nodes": "NodeList",
}
# Command, working directory and comment: what identifies a job besides its number.
_SQUEUE_ORIGIN = ("%o", "%Z", "%k")
_SACCT_ORIGIN = ("SubmitLine", "WorkDir", "Comment")
_IDS_PER_COMMAND = 2000
_SETTLED_S = 60.0
"""A job that was preempted or lost its node may go back to the queue; after so many seconds it has ended for good."""


class State(StrEnum):
    """State of a job as Slurm names it (https://slurm.schedmd.com/job_state_codes.html), and two of our own."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    STAGE_OUT = "STAGE_OUT"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    EXPEDITING = "EXPEDITING"
    """Since 25.11, after `sbatch --requeue=expedite`: it goes back to the queue."""
    POWER_UP_NODE = "POWER_UP_NODE"
    UPDATE_DB = "UPDATE_DB"
    PREEMPTED = "PREEMPTED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"
    """Slurm did not answer, or gave a state that is not in this list."""
    FORGOTTEN = "FORGOTTEN"
    """Slurm answers, and neither its queue nor its accounting has the job: its run directory says how it ended."""

    @property
    def terminal(self) -> bool:
        """Return whether a job in this state will not run again."""
        return self in _TERMINAL

    @property
    def waiting(self) -> bool:
        """Return whether the job is in the queue, before its (next) start."""
        return self in _WAITING


_TERMINAL = frozenset(
    {
        State.COMPLETED,
        State.CANCELLED,
        State.FAILED,
        State.TIMEOUT,
        State.NODE_FAIL,
        State.OUT_OF_MEMORY,
        State.BOOT_FAIL,
    }
    | {
        State.DEADLINE,
        State.LAUNCH_FAILED,
        State.RECONFIG_FAIL,
        State.REVOKED,
        State.PREEMPTED,
        State.FORGOTTEN,
    }
)
_WAITING = frozenset(
    {State.PENDING, State.REQUEUED, State.REQUEUE_FED, State.REQUEUE_HOLD, State.SPECIAL_EXIT, State.RESV_DEL_HOLD}
    | {State.EXPEDITING}
)
_MAY_RETURN = frozenset({State.PREEMPTED, State.NODE_FAIL, State.BOOT_FAIL})


@dataclass(frozen=True)
class Job:
    """State of one job in Slurm. Times are seconds since the epoch."""

    id: str
    state: State
    terminal: bool = False
    """It has ended and does not come back; PREEMPTED and NODE_FAIL count a minute after the end."""
    reason: str | None = None
    """Why it waits or failed, as Slurm says; of a FORGOTTEN job, why accounting did not answer."""
    submitted: float | None = None
    start: float | None = None
    """When it started; while it waits, when Slurm expects it to."""
    end: float | None = None
    limit_end: float | None = None
    """When its time limit will end it, while it runs."""
    nodes: str | None = None
    exit_status: int | None = None
    """Of the batch script, from accounting; 128+N for signal N."""
    source: str = "squeue"
    origin: str | None = None
    """Command, working directory and comment, separated by `|`; None where Slurm did not print them."""

    def belongs_to(self, token: str | None, scripts: Sequence[str]) -> bool | None:
        """Return whether this is the job of one of the batch scripts `scripts`, or carries `token` in its comment.

        A number alone does not identify a job: each cluster counts on its own, and a controller that has lost its
        state begins again. A site may rewrite comments, so either sign is enough. None where Slurm shows neither.
        """
        if self.origin is None:
            return None
        if token and re.search(rf"(?<![\w-]){re.escape(token)}(?![\w-])", self.origin):
            return True
        if any(re.search(rf"(?:^|[ |]){re.escape(script)}(?:$|[ |])", self.origin) for script in scripts):
            return True
        command, directory = (_words(each) for each in (*self.origin.split("|"), "", "")[:2])
        directories = {script.rpartition("/")[0] for script in scripts}
        return False if command or (directory and directory not in directories) else None


@dataclass(frozen=True)
class Answer:
    """States of several jobs at one time."""

    jobs: Mapping[str, Job]
    asked_at: float
    unreachable: str | None = None
    """Slurm's error message where it did not answer; every job is UNKNOWN then."""


def ask_jobs(
    ids: Iterable[str], shell: Shell, *, cluster: str | None = None, clock: Callable[[], float] = time.time
) -> Answer:
    """Return the states of these jobs of one cluster from one squeue and at most one sacct for each 2000 jobs.

    `cluster` is named only where it is not the local one: Slurm finds other clusters through its accounting database.

    Raises no error of Slurm's: see `Answer.unreachable`.
    """
    wanted = sorted(set(ids))
    now = clock()
    jobs: dict[str, Job] = {}
    try:
        for some in _chunks(wanted):
            jobs |= _from_squeue(some, shell, now, cluster)
    except SlurmUnavailableError as error:
        return Answer({each: Job(each, State.UNKNOWN) for each in wanted}, now, unreachable=error.message)
    left = [each for each in wanted if each not in jobs]
    problem = None
    try:
        for some in _chunks(left):
            found, problem = _from_sacct(some, shell, now, cluster)
            jobs |= found
    except SlurmUnavailableError as error:
        problem = error.message
    for each in left:
        reason = f"accounting does not answer: {problem}" if problem else None
        jobs.setdefault(each, Job(each, State.FORGOTTEN, terminal=True, reason=reason, source="none"))
    return Answer(jobs, now)


def parse_state(text: str) -> State:
    """Return the state that squeue or sacct wrote: `CANCELLED by 1000` and `CANCELLED+` are CANCELLED."""
    match = re.match(r"[A-Z_]+", text.strip())
    try:
        return State(match[0] if match else "")
    except ValueError:
        return State.UNKNOWN


def parse_time(text: str) -> float | None:
    """Return seconds since the epoch; None for `N/A`, `Unknown`, `None`, `NONE`."""
    return float(text) if text.isdigit() and text != "0" else None


def parse_squeue(text: str, now: float) -> dict[str, Job]:
    """Return the jobs in squeue's lines, under the id that people see (`12_3`) and under the plain one."""
    return _parse_jobs(text, tuple(_SQUEUE), "squeue", now)


def parse_sacct(text: str, now: float) -> dict[str, Job]:
    """Return the jobs in sacct's lines (--allocations: without steps), under both ids."""
    return _parse_jobs(text, tuple(_SACCT), "sacct", now)


def _parse_jobs(text: str, names: tuple[str, ...], source: str, now: float) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for line in text.splitlines():
        fields = [each.strip() for each in line.split("|", len(names))]
        if len(fields) < len(names):
            continue  # a header that squeue prints for several clusters, or a message
        row = dict(zip(names, fields, strict=False))
        state = parse_state(row["state"])
        # For a job that has not ended squeue prints when its time limit will end it.
        ended = parse_time(row["end"]) if state.terminal or source == "sacct" else None
        job = Job(
            row["shown"],
            state,
            terminal=_is_final(state, ended, now),
            reason=_words(row.get("reason", "")),
            submitted=parse_time(row["submitted"]),
            start=parse_time(row["start"]),
            end=ended,
            limit_end=parse_time(row["end"]) if source == "squeue" and state is State.RUNNING else None,
            nodes=_words(row["nodes"]),
            exit_status=parse_exit(row["exit"]) if state.terminal and "exit" in row else None,
            source=source,
            origin=fields[-1] if len(fields) > len(names) else None,
        )
        jobs[job.id] = job
        jobs.setdefault(row["plain"], job)
    return jobs


def parse_exit(text: str) -> int | None:
    """Return sacct's ExitCode as a shell gives it: 3 for `3:0` (status 3), 137 for `0:9` (signal 9)."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None
    return 128 + int(match[2]) if int(match[2]) else int(match[1])


def in_cluster(cluster: str | None) -> list[str]:
    """Return the option that sends a command to another cluster; none for the local one."""
    return [f"--clusters={cluster}"] if cluster else []


def _from_squeue(ids: list[str], shell: Shell, now: float, cluster: str | None) -> dict[str, Job]:
    argv = [
        "squeue",
        *in_cluster(cluster),
        "--noheader",
        "--array",
        "--states=all",
        f"--format={'|'.join((*_SQUEUE.values(), *_SQUEUE_ORIGIN))}",
        f"--jobs={','.join(ids)}",
    ]
    result = ask(argv, shell)
    if result.status != 0 and "Invalid job id" not in result.stderr:
        # squeue fails if it is asked for one job that the queue no longer has; of several jobs it leaves that one out.
        raise SlurmUnavailableError(f"squeue: {first_error(result)}")
    return {name: job for name, job in parse_squeue(result.stdout, now).items() if name in ids}


def _from_sacct(ids: list[str], shell: Shell, now: float, cluster: str | None) -> tuple[dict[str, Job], str | None]:
    argv = [
        "sacct",
        *in_cluster(cluster),
        "--allocations",
        "--parsable2",
        "--noheader",
        f"--format={','.join((*_SACCT.values(), *_SACCT_ORIGIN))}",
        f"--jobs={','.join(ids)}",
    ]
    result = ask(argv, shell)
    if result.status != 0:
        return {}, first_error(result)
    return {name: job for name, job in parse_sacct(result.stdout, now).items() if name in ids}, None


def _is_final(state: State, ended: float | None, now: float) -> bool:
    if not state.terminal:
        return False
    return state not in _MAY_RETURN or (ended is not None and now - ended > _SETTLED_S)


def _words(text: str) -> str | None:
    return None if text in ("", "None", "(null)", "None assigned", "N/A") else text


def _chunks(ids: list[str]) -> Iterable[list[str]]:
    return (ids[start : start + _IDS_PER_COMMAND] for start in range(0, len(ids), _IDS_PER_COMMAND))
