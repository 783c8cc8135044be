"""Cancelling runs: ending them, or making them save and stop."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from launcher._util.errors import DiskError, OutsideError, RequestError, SlurmError
from launcher._util.processes import members_for
from launcher._util.shell import Shell
from launcher.backends.wait import request_stop
from launcher.contract import files
from launcher.contract.paths import PLAN
from launcher.rundir import RunDirectory
from launcher.slurm import control
from launcher.slurm.queue import State, ask_jobs
from launcher.slurm.submit import find_submission
from launcher.watch.run_state import Start
from launcher.watch.status import UNPROVEN, Phase, RunStatus, status_of

GRACE_S = 30.0
"""Time between SIGTERM and SIGKILL for ranks on this machine; Slurm's KillWait has the same default."""


def cancel_run(
    run: RunDirectory,
    shell: Shell,
    *,
    save: bool = False,
    force: bool = False,
    grace_s: float = GRACE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """End a run, or with `save` ask its ranks to save and stop; return a sentence about what was done.

    Does nothing for a run that has ended. A job is ended only if Slurm shows that it is the run's, and only together
    with those that wait behind it; with `force` also where Slurm shows nothing about them. Raises RequestError if this
    is not possible from here, or there is nothing to save yet; SlurmError if Slurm refused or did not answer;
    OutsideError if a job of the run is not known, or not proven to be the run's.
    """
    if (original := copied_from(run)) is not None:
        raise OutsideError(
            f"nothing was ended: this directory is a copy of {original}, whose jobs its journal names",
            where=str(run.path),
            hint=f"To end that run: launcher cancel {original}",
        )
    if (there := run.pulled_from) is not None:
        raise OutsideError(
            f"nothing was ended: this directory is a copy of {there}",
            where=str(run.path),
            hint="To end that run, name the profile of its cluster: launcher cancel RUN --cluster NAME",
        )
    status = status_of([run], shell)[0][0]
    start = status.run_state.start
    if status.job_proven is False and status.phase in (Phase.UNKNOWN, Phase.LOST):
        raise OutsideError(
            f"nothing was ended: {status.detail}",
            where=str(run.path),
            hint="Call `launcher cancel` on a login node of the cluster on which the run was submitted.",
        )
    damage = status.run_state.damage
    if damage is not None:
        _refuse_unknown(run, status, damage)
        if status.job_state is not None and State(status.job_state).terminal:
            return f"job {status.job} has already ended: {status.job_state}"
    if status.phase.over or start is None:
        return f"the run has already ended: {status.phase.value}"
    if save:
        return _ask_to_stop(run, status)
    if start.how == "launched":
        return _end_here(run, start, grace_s, sleep)
    return _end_job(run, status, shell, force)


def copied_from(run: RunDirectory) -> Path | None:
    """Return the directory of which this one is a copy that was not started since; None where it is the run's own.

    A copy has the journal and the token of the original, so Slurm's job seems to be its own. A run that was moved or is
    seen under another path is not a copy.
    """
    plan = files.read_object(run.path / PLAN) or {}
    named, token = plan.get("run_dir"), plan.get("token")
    if not isinstance(named, str) or not isinstance(token, str):
        return None
    original = Path(named)
    try:
        other = files.read_object(original / PLAN)
        return original if other and other.get("token") == token and not original.samefile(run.path) else None
    except OSError:
        return None


def _end_job(run: RunDirectory, status: RunStatus, shell: Shell, force: bool) -> str:
    if status.job is None:
        raise OutsideError(
            "the run's job is unknown", where=str(run.path), hint="Slurm does not answer; try again when it does."
        )
    if status.unknown_since is not None and not force:
        raise SlurmError(
            f"job {status.job} was not ended: {status.detail}",
            where=str(run.path),
            hint="Try again when Slurm answers: until then it is not known whether the job is still this run's.",
        )
    if status.job_proven is None and not force:
        raise OutsideError(
            f"job {status.job} was not ended: {UNPROVEN}",
            where=str(run.path),
            hint=f"See `scontrol show job {status.job}`; if it is this run's: launcher cancel --force.",
        )
    # Those behind it first: they would begin once it has ended.
    behind = _jobs_behind(run, status, shell, force)
    try:
        run.journal.write("cancelled", job=status.job, cluster=status.job_cluster)
    except DiskError:
        if status.run_state.damage is None:
            raise  # a damaged journal does not keep the job from being ended
    try:
        control.cancel([*behind, status.job], shell, cluster=status.job_cluster)
    except SlurmError as error:
        with contextlib.suppress(DiskError):  # Slurm's answer counts more
            run.journal.write("cancel_failed", job=status.job, cluster=status.job_cluster, error=error.message)
        raise
    return f"job {status.job} is cancelled" + (f", and behind it {', '.join(behind)}" if behind else "")


def _jobs_behind(run: RunDirectory, status: RunStatus, shell: Shell, force: bool) -> list[str]:
    """Return the jobs that wait behind the run's own.

    Raises SlurmError where Slurm does not answer, OutsideError where it does not show that a job is the run's: such a
    job would begin once the run's own has ended. With `force` these jobs are returned too; then only a job whose number
    is not known may be left, and it ends by itself when it begins, as the journal says that the run was cancelled.
    """
    later = _numbered(run, status, shell, force)
    if not later:
        return []
    answer = ask_jobs(later, shell, cluster=status.job_cluster)
    if answer.unreachable is not None:
        if force:
            return list(later)
        raise _behind_unknown(run, status, later, answer.unreachable)
    behind, unproven = list[str](), list[str]()
    for job, start in later.items():
        found = answer.jobs[job]
        proven = found.belongs_to(start.shown_token, status.run_state.batch_scripts)
        if not found.terminal and (proven or (proven is None and force)):
            behind.append(job)
        elif not found.terminal and proven is None:
            unproven.append(job)
    if unproven:
        raise OutsideError(
            f"nothing was ended: {', '.join(unproven)} may wait behind job {status.job}, but {UNPROVEN}",
            where=str(run.path),
            hint=f"See `scontrol show job {unproven[0]}`; if it is this run's: launcher cancel --force.",
        )
    return behind


def _numbered(run: RunDirectory, status: RunStatus, shell: Shell, force: bool) -> dict[str, Start]:
    """Return the starts behind the run's own by their jobs; Slurm is asked for the number that sbatch did not say."""
    numbered = dict[str, Start]()
    for start in status.run_state.later:
        job = start.job
        if job is None and start.token:
            try:
                found = find_submission(start.token, shell, start.clusters)
            except SlurmError as error:
                if not force:
                    raise _behind_unknown(run, status, ["a job that sbatch did not number"], error.message) from error
                continue
            job = found.job if found else None
        if job is not None:
            numbered[job] = start
    return numbered


def _behind_unknown(run: RunDirectory, status: RunStatus, jobs: Iterable[str], words: str) -> SlurmError:
    return SlurmError(
        f"nothing was ended: whether {', '.join(jobs)} waits behind job {status.job} is unknown: {words}",
        where=str(run.path),
        hint="Try again when Slurm answers, or end them all: launcher cancel --force.",
    )


def _refuse_unknown(run: RunDirectory, status: RunStatus, damage: str) -> None:
    """Refuse a damaged run that shows neither a job nor processes that could be ended. Raises OutsideError."""
    start = status.run_state.start
    if start is not None and (status.job is not None if start.how != "launched" else start.group is not None):
        return
    raise OutsideError(
        f"nothing was ended: it is unknown what the run's job is, because {damage}",
        where=str(run.path),
        hint="If it still runs, `squeue --me` shows its job, and `scancel` ends it.",
    )


def _ask_to_stop(run: RunDirectory, status: RunStatus) -> str:
    if status.phase is Phase.QUEUED or status.run_state.attempt is None:
        raise RequestError(
            "the run has not started, so there is nothing to save",
            where=str(run.path),
            hint="Leave out --checkpoint to remove it from the queue.",
        )
    try:
        request_stop(run, "launcher cancel --checkpoint")
    except OSError as error:
        raise OutsideError(f"cannot ask the ranks to stop: {error.strerror}", where=str(run.path)) from error
    return "the ranks will save and stop after this iteration"


def _end_here(run: RunDirectory, start: Start, grace_s: float, sleep: Callable[[float], None]) -> str:
    if start.host != os.uname().nodename:
        raise RequestError(
            f"the run was started on {start.host}, and its processes are there",
            where=str(run.path),
            hint=f"Call `launcher cancel` on {start.host}, or use --checkpoint, which works from any machine.",
        )
    group = start.group
    if group is None or not members_for(run.path, group, start.group_start_ticks):
        return "no process of the run is left"
    run.journal.write("cancelled", group=group)
    try:
        _signal(group, signal.SIGTERM)
    except RequestError:
        with contextlib.suppress(DiskError):  # the refusal is raised in any case
            run.journal.write("cancel_failed", group=group)
        raise
    waited = 0.0
    while members_for(run.path, group, start.group_start_ticks) and waited < grace_s:
        sleep(0.1)
        waited += 0.1
    if members_for(run.path, group, start.group_start_ticks):
        _signal(group, signal.SIGKILL)
        return f"the run's processes were killed: they had not ended {grace_s:g} s after SIGTERM"
    return "the run's processes have ended"


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of them have ended
    except PermissionError as error:
        raise RequestError("the run belongs to another user", hint="Only its owner or root can end it.") from error
