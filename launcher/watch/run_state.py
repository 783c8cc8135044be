"""The state of a run as its directory shows it, without a query to Slurm."""

import contextlib
import functools
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from launcher._util.errors import DiskError, LauncherError
from launcher._util.processes import members_for
from launcher.contract import files
from launcher.contract.frozen import dataclass, replace
from launcher.contract.paths import ATTEMPTS, JOURNAL, NETWORK, PLAN, RESULT, AttemptPaths, RunPaths
from launcher.contract.process import boot_id, is_alive
from launcher.contract.records.journal import JournalEvent, Lease
from launcher.contract.records.result import AttemptResult
from launcher.contract.validation import ContractError, conforming, problems
from launcher.planning.backend import BACKENDS
from launcher.rundir import Attempt, RunDirectory
from launcher.rundir.lease import ended_lease, read_checked_lease, read_lease
from launcher.rundir.quick_reader import quick_reader
from launcher.watch.progress_state import AttemptProgress, advance, silent_after
from launcher.watch.tail import last_lines


class _Plan(TypedDict, total=False):
    """What of plan.json is read here."""

    name: str
    run_id: str
    run_dir: str
    backend: str
    cluster: str
    recipe: Any
    world_size: int
    layout: Any
    network: Any


class _Layout(TypedDict, total=False):
    nodes: int


class _UsualPlan(_Plan, total=False):
    """A plan as the launcher writes it, of which msgspec makes no more than what is read here: a plan is long."""

    recipe: str
    layout: _Layout
    network: str | None


class _FailingRank(TypedDict, total=False):
    host: str | None
    cause: str | None


class _Verdict(TypedDict, total=False):
    """What of result.json a status shows."""

    outcome: str
    reason: str | None
    stopped_by: str | None
    iteration: int | None
    train_iters: int | None
    loss: float | None
    seconds_per_iteration: float | None
    first_failing_rank: _FailingRank | None


_STARTS = ("submit_intent", "submit_unknown", "submit_refused", "submitted", "launched", "requeue")


@dataclass(frozen=True)
class Start:
    """The newest start of a run, from its journal. `how` is the name of the event."""

    how: str
    time: float
    job: str | None = None
    cluster: str | None = None
    """Slurm's name of the job's cluster; None where that was not recorded."""
    clusters: str | None = None
    """The clusters among which sbatch was to choose; None for the local one."""
    token: str | None = None
    array: str | None = None
    """The token of the job array of which the job is the task `index`; None for a job of its own."""
    index: int | None = None
    attempt: str | None = None
    """The attempt that it started, if that was known then."""
    host: str | None = None
    alive: bool | None = None
    """Whether the launcher that started it or one of its `orphans` runs; None if this machine cannot show that."""
    group: int | None = None
    """Process group of the started processes, on `host`."""
    group_start_ticks: int | None = None
    """When the first process of the group was started, in clock ticks since boot."""
    orphans: tuple[int, ...] = ()
    """The processes of the group that go on although their launcher has ended."""
    error: str | None = None

    @property
    def shown_token(self) -> str | None:
        """Return the token that Slurm shows of its job."""
        return self.array or self.token

    def task_of(self, job: str) -> str:
        """Return the name of its job; `job` shows that token, and is an array or the job itself."""
        return job if self.index is None else f"{job}_{self.index}"


@dataclass(frozen=True)
class RunState:
    """A frozen view of a run directory."""

    path: Path
    name: str
    run_id: str
    backend: str
    cluster: str
    recipe: str
    world_size: int
    start: Start | None
    nodes: int | None = None
    """None where the plan does not say."""
    later: tuple[Start, ...] = ()
    """Those of jobs that wait behind that of `start`."""
    attempts: int = 0
    attempt: str | None = None
    """The newest attempt, if it belongs to the newest start."""
    slurm_said: str | None = None
    """What Slurm wrote to sbatch.log about the end of the start's job: `CANCELLED`, or after `DUE TO` why."""
    outside: str | None = None
    """What srun.log or sbatch.log says, where no rank has given a sign yet."""
    job_start: float | None = None
    """When Slurm started the job for that attempt, by the controller's clock; None where that is unknown."""
    result: AttemptResult | None = None
    read_progress: AttemptProgress | None = None
    """None with a verdict: then the files of the attempt do not change any more, and are read where they are shown."""
    stopping: bool = False
    """Whether its ranks were asked to save and stop."""
    cancelled: bool = False
    """Whether `launcher cancel` was called after the newest start."""
    own_job: bool = False
    """Whether it runs in its own batch job."""
    planned_path: str = ""
    """Its directory as the submission saw it."""
    damage: str | None = None
    """Why the directory does not show how the run is: which of its files is lost or damaged."""
    silent_s: float | None = None
    """How long its attempt has shown no sign, if that is longer than ten iterations; None also where it is unknown."""
    hang: str | None = None
    """What the watchdogs of its nodes say about ranks without progress."""
    network: str | None = None
    """The ranks' warning about their network: that of the first node, and the number of nodes with one."""

    @functools.cached_property
    def progress(self) -> AttemptProgress:
        """The progress of the newest attempt, if it belongs to the newest start."""
        if self.read_progress is not None:
            return self.read_progress
        attempt = RunPaths(self.path).attempt_paths(self.attempt) if self.attempt else None
        return attempt_progress(attempt) if attempt else AttemptProgress()

    @property
    def batch_scripts(self) -> tuple[str, ...]:
        """Paths of its batch script, as the submission and as this machine sees it."""
        seen = RunPaths(self.path)
        planned = RunPaths(Path(self.planned_path)) if self.planned_path else seen
        return tuple(dict.fromkeys((str(planned.sbatch_script), str(seen.sbatch_script))))

    def shown(self, name: str) -> Any:
        """Return a value of the verdict, which counts as soon as there is one, else that of the progress."""
        return self.result[name] if self.result and name in self.result else getattr(self.progress, name)  # type: ignore[literal-required]


def newest_start(run: RunDirectory) -> Start | None:
    """Return the newest start of the run, of several at once that of its owner; None if it was never started."""
    return _starts(run, run.journal.read(), read_lease(run))[0]


def current_attempt(
    run: RunDirectory, start: Start | None, attempts: Sequence[Attempt] | None = None
) -> Attempt | None:
    """Return the newest attempt if it belongs to this start; `attempts` are those of the run, where they are known.

    After a resume, the newest attempt is an old one until the new one has started. They are distinguished by what the
    attempt itself recorded, not by times: the clocks of login and compute nodes differ.
    """
    newest = run.latest_attempt() if attempts is None else next(reversed(attempts), None)
    if newest is None or start is None:
        return None
    if start.attempt == newest.name:
        return newest
    record = newest.start_record
    return newest if record is not None and record.nonce == start.token else None


def read_run_state(run: RunDirectory) -> RunState:
    """Read the state of a run. What is lost or damaged in its directory, `damage` says; nothing is raised for it."""
    try:
        return _read_run_state(run)
    except (LauncherError, OSError) as error:
        words = error.message if isinstance(error, LauncherError) else f"the run directory cannot be read: {error}"
        return _planned(run, {}, words)


def _read_run_state(run: RunDirectory) -> RunState:
    plan, plan_damage = _read_plan(run)
    events, journal_damage = _read_journal(run)
    owner, lease_damage = read_checked_lease(run)
    names = run.attempt_names()
    directory = f"{run.path}/{ATTEMPTS}/{names[-1]}" if names else ""
    newest = Attempt(Path(directory)) if names else None
    start, later = _starts(run, events, owner)
    if journal_damage is None and not any(event["event"] in _STARTS for event in events):
        journal_damage = _lost_start(run, owner, newest)
    if start is not None and (wrong := _wrong_job(start)):
        start, journal_damage = replace(start, job=None, cluster=None, clusters=None), journal_damage or wrong
    is_current = newest is not None and start is not None and start.attempt == names[-1]
    current = newest if is_current else current_attempt(run, start, [newest] if newest else [])
    result, result_damage = _result(current, directory) if current else (None, None)
    values: dict[str, Any] = {
        "start": start,
        "later": later,
        "attempts": len(names),
        "cancelled": start is not None and _cancelled(events, start),
    }
    if current is not None:
        values |= {"attempt": names[-1], "result": result, "network": _network(current, plan)}
        under_slurm = start is not None and (start.how != "launched" or start.job is not None)
        record = current.start_record if under_slurm else None
        values["job_start"] = record.job_start if record else None
        if result is None or result.get("outcome") != "finished":
            number = record.job if record else start.job if start else None
            values["slurm_said"] = _slurm_words(run, number)
        if result is None:
            values |= _going_on(run, current)
    return _planned(run, plan, plan_damage or journal_damage or lease_damage or result_damage, **values)


def _slurm_words(run: RunDirectory, job: str | None) -> str | None:
    lines = last_lines(run.sbatch_log)
    if not lines:
        return None
    from launcher.contract import verdict  # here, not at the top: a list of finished runs needs none

    return verdict.slurm_words(lines, job)


def _going_on(run: RunDirectory, attempt: Attempt) -> dict[str, Any]:
    """Return what is known of an attempt without a verdict."""
    from launcher.watch.outside import outside_words  # here, not at the top: a list of ended runs needs none

    progress = attempt_progress(attempt)
    return {
        "read_progress": progress,
        "outside": outside_words(run, attempt) if progress.time is None else None,
        "stopping": attempt.stop.exists(),
        "silent_s": silence(attempt, progress),
        "hang": hang_words(attempt),
    }


def _planned(run: RunDirectory, plan: _Plan, damage: str | None, **values: Any) -> RunState:
    """Return the state of a run of which its plan is known, or only its path, with further values."""
    layout = plan.get("layout")
    nodes = layout.get("nodes") if isinstance(layout, dict) else None
    name, run_id = plan.get("name"), plan.get("run_id")
    return RunState(
        path=run.path,
        nodes=nodes if type(nodes) is int else None,
        name=name if name is not None else run.path.parent.name,
        run_id=run_id if run_id is not None else run.path.name,
        backend=plan.get("backend", "?"),
        cluster=plan.get("cluster", "?"),
        recipe=str(plan.get("recipe", "?")),
        world_size=plan.get("world_size", 0),
        own_job=_own_job(plan),
        planned_path=plan.get("run_dir", ""),
        damage=damage,
        **{"start": None, **values},
    )


def _read_plan(run: RunDirectory) -> tuple[_Plan, str | None]:
    """Return the plan, or an empty one and what is wrong with it."""
    with contextlib.suppress(OSError, ValueError, RecursionError):  # said below
        return quick_reader(_UsualPlan).decode(files.read_bytes(f"{run.path}/{PLAN}")), None
    try:
        return conforming(run.plan, _Plan, unknown_keys=True), None
    except LauncherError as error:
        return {}, error.message
    except ContractError as error:
        return {}, f"plan.json is wrong: {error}"


def _read_journal(run: RunDirectory) -> tuple[list[JournalEvent], str | None]:
    """Return the events of the journal, and what is wrong with it."""
    with contextlib.suppress(OSError, ValueError, RecursionError):  # read again, line by line
        return quick_reader(JournalEvent).decode_lines(files.read_bytes(f"{run.path}/{JOURNAL}")), None
    try:
        return run.journal.read_checked()
    except DiskError as error:
        return [], error.message


def _wrong_job(start: Start) -> str | None:
    """Return why Slurm cannot be asked for the job; one wrong number would spoil its answer for all jobs."""
    if start.job is not None and not re.fullmatch(r"[0-9]+([_+][0-9]+)*", start.job):
        return f"{start.job!r} is not the number of a job"
    clusters = [each for each in (start.cluster, start.clusters) if each is not None]
    wrong = next((each for each in clusters if not (each.isascii() and each.isprintable())), None)
    return f"{wrong!r} is not the name of a cluster" if wrong is not None else None


def _lost_start(run: RunDirectory, owner: Lease | None, newest: Attempt | None) -> str | None:
    """Return what shows that the run was started although the journal has no start; None where nothing does."""
    journal = run.journal_file
    if owner is not None:
        sign = f"job {owner['job_id']} has its lease" if owner["job_id"] else "a process has its lease"
    elif newest is not None:
        sign = f"it has attempt {newest.name}"
    elif any(run.path.glob("lease.*.ended")):
        sign = "a job that has ended had its lease"
    elif journal.exists() and journal.stat().st_size:
        return "the journal has no readable event"
    else:
        return None
    return f"the journal {'has no start' if journal.exists() else 'is lost'} of the run, but {sign}"


def _own_job(plan: _Plan) -> bool:
    traits = BACKENDS.get(plan.get("backend", ""))
    return traits is not None and traits.own_job


def _network(attempt: Attempt, plan: _Plan) -> str | None:
    """Return the first network warning and the number of nodes that have one; only one file is read."""
    if plan.get("network", "") is None:  # the profile says nothing about a network, so that no rank watches one
        return None
    try:
        warnings = sorted(name for name in os.listdir(f"{attempt.path}/{NETWORK}") if name.endswith(".warning"))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not warnings:
        return None
    try:
        words = files.read_text(attempt.network / warnings[0], errors="replace").strip()
    except OSError:
        words = "a warning that cannot be read"
    return words if len(warnings) == 1 else f"{words} (and {len(warnings) - 1} more nodes)"


def _cancelled(events: list[JournalEvent], start: Start) -> bool:
    # By order: the times may be those of several login nodes.
    began = next((index for index, each in enumerate(events) if each.get("time") == start.time), 0)
    names = [each.get("event") for each in events[began:]]
    if "cancelled" not in names:
        return False
    from launcher.contract.next_attempt import is_cancelled  # here, not at the top: few runs are

    return is_cancelled(names)


def attempt_progress(attempt: AttemptPaths) -> AttemptProgress:
    """Return the progress of an attempt, from the last lines of its files, which may be long."""
    return advance(advance(AttemptProgress(), last_lines(attempt.timeline)), last_lines(attempt.metrics))


def silence(attempt: Attempt, progress: AttemptProgress) -> float | None:
    """Return for how many seconds an attempt has shown no sign, if that is longer than ten of its iterations.

    The clocks of this machine and of the nodes may differ: both times are those that the file system gives, the
    present one by a file that is made and removed. So that few files are made, this machine's clock is asked first:
    where it is behind, silence is shown so much later. None where the file system does not say, or it is not silent.
    """
    limit = silent_after(progress)
    newest = max((changed_at(path) for path in (attempt.metrics, attempt.timeline)), default=0.0)
    if limit is None or time.time() - newest < limit:
        return None
    probe = attempt.path / f".clock-{os.uname().nodename}-{os.getpid()}"
    try:
        probe.touch()
        silent_s = probe.stat().st_mtime - newest
        probe.unlink()
    except OSError:
        return None
    return silent_s if silent_s >= limit else None


def changed_at(path: Path) -> float:
    """Return when a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def hang_words(attempt: Attempt) -> str | None:
    """Return what the watchdogs of an attempt's nodes say about ranks without progress; None if they say nothing."""
    from launcher.contract import hangs, verdict  # here, not at the top: a list of ended runs needs none

    nodes = [node for node in verdict.hang_records(attempt) if node["stage"] != "busy"]
    if not nodes:
        return None
    sights = [sight for node in nodes for sight in node["ranks"]]
    words = hangs.sentence(hangs.culprits(sights), sights, max(node["silent_s"] for node in nodes))
    return f"{words}; stacks in {attempt.stacks}"


def _starts(
    run: RunDirectory, events: list[JournalEvent], owner: Lease | None
) -> tuple[Start | None, tuple[Start, ...]]:
    """Return the start to which the run belongs now, and those of jobs that were queued behind it by hand.

    Each is completed by the intent that precedes a submission's outcome. The first is the owner's while the run has
    one, otherwise the newest whose job was not turned away by an owner, and of jobs that wait behind each other the
    newest that has begun. Of a journal without a start only the owner is left, by its lease.
    """
    starts = [(event, _intent(events, index)) for index, event in enumerate(events) if event.get("event") in _STARTS]
    if not starts:
        return (_start_of(owner) if owner else None), ()
    turned_away = {event.get("job") for event in events if event.get("event") == "not_owner"}
    owned = [index for index, each in enumerate(starts) if owner and _token(*each) == owner["nonce"]]
    others = [
        index
        for index, (event, _) in enumerate(starts)
        if event.get("job") is None or event.get("job") not in turned_away
    ]
    position = (owned or others or [len(starts) - 1])[-1]
    while not owned and position > 0 and _waits(run, *starts[position]):
        position -= 1
    later = [
        (event, intent)
        for event, intent in starts[position + 1 :]
        if intent.get("after")
        and (event["event"] != "submit_refused" or _has_lease(run, owner, _token(event, intent)))
        and event.get("job") not in turned_away
    ]
    newest = {_token(*each): each for each in later}  # the outcome in place of the intent
    return _as_start(run, owner, *starts[position]), tuple(_as_start(run, owner, *each) for each in newest.values())


def _waits(run: RunDirectory, event: JournalEvent, intent: dict[str, Any]) -> bool:
    """Return whether a job was queued behind another one and has no attempt: not yet, or it had nothing to do."""
    token = _token(event, intent)
    if not intent.get("after") or token is None:
        return False
    return not any((record := each.start_record) and record.nonce == token for each in run.attempts())


def _as_start(run: RunDirectory, owner: Lease | None, event: JournalEvent, intent: dict[str, Any]) -> Start:
    began = intent if str(event["event"]).startswith("submit") and intent else event
    token = _token(event, intent)
    lease = owner if owner and owner["nonce"] == token else ended_lease(run, token) if token else None
    # Of two jobs that one submission has led to, the owner counts.
    job, cluster = event.get("job"), event.get("cluster")
    if lease is not None and lease["job_id"]:
        # Another number is one of the lease's cluster; of the same job sbatch has said where it is.
        cluster = (lease["cluster"] or cluster) if lease["job_id"] != job else cluster or lease["cluster"]
        job = lease["job_id"]
    # A job that has held the lease was submitted, whatever sbatch has answered.
    unanswered = event["event"] in ("submit_intent", "submit_unknown", "submit_refused")
    launcher_alive, orphans = _on_this_machine(run, event)
    return Start(
        how="submitted" if unanswered and lease and job else str(event["event"]),
        time=float(began.get("time", 0)),
        job=job,
        cluster=cluster,
        clusters=intent.get("clusters"),
        token=token,
        array=event.get("array") or intent.get("array"),
        index=event.get("index", intent.get("index")),
        attempt=event.get("attempt") or (lease["attempt"] if lease else None),
        host=event.get("host"),
        alive=launcher_alive or bool(orphans) if launcher_alive is not None else None,
        group=event.get("group"),
        group_start_ticks=event.get("group_start_ticks"),
        orphans=orphans,
        error=event.get("error"),
    )


def _has_lease(run: RunDirectory, owner: Lease | None, token: str | None) -> bool:
    """Return whether a job with this token executes the run, or has done so."""
    return token is not None and ((owner is not None and owner["nonce"] == token) or bool(ended_lease(run, token)))


def _start_of(owner: Lease) -> Start:
    return Start(
        how="submitted" if owner["job_id"] else "launched",
        time=owner["time"],
        job=owner["job_id"],
        cluster=owner["cluster"],
        token=owner["nonce"],
        attempt=owner["attempt"],
        host=owner["host"],
    )


def _intent(events: list[JournalEvent], index: int) -> dict[str, Any]:
    """Return the intent of the event at `index`: the newest before it, with its token where it has one."""
    token = events[index].get("token")
    for event in reversed(events[: index + 1]):
        if event.get("event") == "submit_intent" and token in (None, event.get("token")):
            return dict(event)
    return {}


def _token(event: JournalEvent, intent: dict[str, Any]) -> str | None:
    return event.get("token") or intent.get("token")


def _on_this_machine(run: RunDirectory, event: JournalEvent) -> tuple[bool | None, tuple[int, ...]]:
    """Return whether the launcher of a start lives, and where it does not, which of the processes it started go on.

    None where the start does not name a process of this machine. After a reboot none of them lives.
    """
    if event.get("event") != "launched" or event.get("host") != os.uname().nodename or "pid" not in event:
        return None, ()
    if event.get("boot_id") and event["boot_id"] != (boot_id() or event["boot_id"]):
        return False, ()
    if is_alive(int(event["pid"]), event.get("start_ticks")):
        return True, ()
    return False, tuple(members_for(run.path, event.get("group", 0), event.get("group_start_ticks")))


def _result(attempt: Attempt, directory: str) -> tuple[AttemptResult | None, str | None]:
    """Return the verdict of the attempt in a directory, or what is wrong with its form.

    An unreadable one counts as missing: Slurm may know more.
    """
    wrong, result = None, None
    try:
        result = quick_reader(AttemptResult).decode(files.read_bytes(f"{directory}/{RESULT}"))
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError):
        try:
            result = attempt.result
        except DiskError:
            return None, None
        wrong = next(problems(result, _Verdict | None, unknown_keys=True), None)
    name = directory.rpartition("/")[2]
    if wrong is None and result is not None and result.get("attempt", name) != name:
        wrong = f"it is that of attempt {result['attempt']}"
    return (None, f"result.json is wrong: {wrong}") if wrong else (result, None)
