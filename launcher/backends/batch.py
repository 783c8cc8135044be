"""The batch backend: sbatch.sh as a Slurm job of its own, submitted once, recorded before and after."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from launcher._util.errors import DiskError, LauncherError, SlurmError
from launcher._util.shell import Shell
from launcher.backends.image_uses import record_job
from launcher.backends.process_environment import for_job
from launcher.contract.next_attempt import with_token
from launcher.discovery.host import HostContext
from launcher.planning.backend import BATCH
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.rundir.lease import ended_lease, read_lease
from launcher.slurm import control
from launcher.slurm.info import cluster_name
from launcher.slurm.poller import Poller
from launcher.slurm.queue import Job
from launcher.slurm.submit import Submission, SubmissionUnknownError, search, submit


class QueuedUnrecordedError(DiskError):
    """Slurm has the job, and its number could not be written to the journal."""


@dataclass
class BatchJob:
    """A submitted run. Slurm runs it whether this process watches it or not."""

    run: RunDirectory
    submission: Submission
    shell: Shell
    poller: Poller
    job: Job | None = field(default=None, init=False)
    """The job as Slurm last described it."""

    def poll(self) -> int | None:
        """Return a status once the job is over; None while it waits or runs, and while that is not known.

        Where Slurm does not answer, a verdict in the run directory counts.
        """
        answer = self.poller.poll()
        if answer is not None:
            self.job = answer.jobs.get(self.submission.job, self.job)
        unanswered = self.poller.unknown_since is not None
        if (self.job is not None and self.job.terminal) or (unanswered and self.outcome is not None):
            return {"finished": 0, "stopped": 1, "failed": 1, "diverged": 1}.get(str(self.outcome), 3)
        return None

    @property
    def outcome(self) -> str | None:
        """The verdict's word on the newest attempt; None before there is one."""
        attempt = self.run.latest_attempt()
        result = attempt.result if attempt else None
        return str(result.get("outcome")) if result else None

    def cancel(self) -> None:
        """Take the job out of the queue, or end it. Raises SlurmError."""
        control.cancel((self.submission.job,), self.shell, cluster=self.submission.cluster)

    def finish(self, status: int) -> int:
        """Return `status`: sbatch.sh itself cleans up."""
        return status


class BatchBackend:
    """Submits a run's sbatch.sh."""

    traits = BATCH

    def start(self, plan: Plan, run: RunDirectory, host: HostContext, shell: Shell) -> BatchJob:
        """Submit the job.

        Raises SlurmError if Slurm refuses it, SubmissionUnknownError if Slurm did not answer and the job may exist.
        """
        submission = _submit(plan, host, run, shell, token=plan.token)
        if submission.cluster is None:
            # The number in this record is looked up in the local Slurm. A job of another cluster is found by its run.
            record_job(plan, submission.job)
        return BatchJob(run, submission, shell, Poller((submission.job,), shell, submission.cluster))


def recover(run: RunDirectory, token: str, shell: Shell) -> Submission | None:
    """Return the job of a submission whose launcher may have been killed, and record it where that was not done.

    None where Slurm has never got it. Raises SubmissionUnknownError where that is not known, DiskError.
    """
    events = [event for event in run.journal.read() if event.get("token") == token]
    known = next((event for event in reversed(events) if event["event"] == "submitted"), None)
    if known is not None and (job := known.get("job")):
        cluster = known.get("cluster")
        return Submission(job, None if cluster == _local_cluster(shell) else cluster)
    owners = [lease for lease in (read_lease(run), ended_lease(run, token)) if lease and lease["nonce"] == token]
    if owners and (job := owners[0]["job_id"]):
        cluster = owners[0]["cluster"]
        found = Submission(job, None if cluster == _local_cluster(shell) else cluster, recovered=True)
    elif not events or events[-1]["event"] == "submit_refused":
        return None
    elif (searched := search(token, shell, clusters=events[0].get("clusters"))) is not None:
        found = searched
    else:
        return None
    _record(run, token, found, shell)
    return found


def _record(run: RunDirectory, token: str, found: Submission, shell: Shell) -> None:
    run.journal.write(
        "submitted",
        backend=BATCH.name,
        token=token,
        job=found.job,
        cluster=found.cluster or _local_cluster(shell),
        recovered=found.recovered,
    )


def queue_successors(
    plan: Plan, host: HostContext, run: RunDirectory, shell: Shell, *, behind: Sequence[str], count: int
) -> Iterator[Submission]:
    """Queue further jobs of a run, the first behind the jobs `behind` and each other one behind the one before.

    They run the run's own sbatch.sh, each with a token of its own; nothing in the run directory is changed but the
    journal. Yields each job once it is queued. Raises as `BatchBackend.start`.
    """
    for _ in range(count):
        token = f"{plan.token.rpartition(':')[0]}:{secrets.token_hex(6)}"
        submission = _submit(plan, host, run, shell, token=token, after=":".join(behind))
        yield submission
        behind = (submission.job,)


def _submit(
    plan: Plan, host: HostContext, run: RunDirectory, shell: Shell, *, token: str, after: str | None = None
) -> Submission:
    """Submit sbatch.sh, with `after` behind other jobs; the journal records the intent and the outcome."""
    directives = dict(plan.directives)
    clusters = directives.get("clusters")
    comment = with_token(directives.get("comment"), plan.token, token)
    run.journal.write("submit_intent", token=token, submission=plan.submission, clusters=clusters, after=after)
    environment = for_job(plan, host.environ)
    try:
        submission = submit(
            run.sbatch_script,
            shell,
            token=token,
            clusters=clusters,
            options=(f"--comment={comment}", f"--dependency=afterany:{after}") if after else (),
            rendered=[key for key, _ in plan.directives],
            env=environment,
            cwd=run.path,
        )
    except SubmissionUnknownError as error:
        # The intent is on disk. A journal that takes no more must not hide what sbatch has answered.
        with contextlib.suppress(DiskError):
            run.journal.write("submit_unknown", token=token, error=error.message)
        raise
    except LauncherError as error:
        with contextlib.suppress(DiskError):  # as above
            run.journal.write("submit_refused", token=token, error=error.message)
        raise
    try:
        _record(run, token, submission, shell)
    except DiskError as error:
        raise QueuedUnrecordedError(
            f"job {submission.job} is queued, but that could not be recorded: {error.message}",
            where=error.where,
            hint=f"`launcher status {run.path}` finds the job in Slurm; `scancel {submission.job}` ends it.",
        ) from error
    return submission


def _local_cluster(shell: Shell) -> str | None:
    """Return Slurm's name of the local cluster; None where it does not say."""
    try:
        return cluster_name(shell)
    except SlurmError:
        return None
