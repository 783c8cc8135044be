"""A run as a batch job: submitted once, recorded before and after."""

from collections.abc import Callable

from launcher._util.errors import LauncherError, SlurmError
from launcher._util.shell import Shell
from launcher.backends.image_uses import forget_image_use, record_image_use, record_job
from launcher.backends.prepare import prepare
from launcher.backends.process_environment import for_job
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.slurm.submit import Submission, SubmissionUnknown, submit


def submit_run(
    plan: Plan, host: HostContext, resumed: RunDirectory | None, shell: Shell, warn: Callable[[str], None]
) -> tuple[RunDirectory, Submission]:
    """Write the run directory and submit its sbatch.sh.

    Where Slurm refuses, or the image was removed meanwhile (ImageError), a new run leaves nothing behind. Where nobody
    knows whether the job exists (SubmissionUnknown), the directory stays: the job would need it, and `launcher status`
    finds out.
    """
    prepared = prepare(plan, resumed)
    run = prepared.run
    try:
        if warning := record_image_use(plan, host):
            warn(warning)
        submission = _submit(plan, host, run, shell)
    except SubmissionUnknown as error:
        raise SlurmError(
            error.message,
            hint=f"The run directory stays, because the job would need it: launcher status {run.path}\n{error.hint}",
        ) from error
    except LauncherError:
        forget_image_use(plan)
        prepared.take_back()
        raise
    record_job(plan, submission.job)
    return run, submission


def _submit(plan: Plan, host: HostContext, run: RunDirectory, shell: Shell) -> Submission:
    """`submit`, with what came of it in the journal."""
    token = token_of(plan)
    run.journal.write("submit_intent", token=token, submission=plan.submission)
    try:
        submission = submit(run.path / "sbatch.sh", shell, token=token, env=for_job(plan, host.environ), cwd=run.path)
    except SubmissionUnknown as error:
        run.journal.write("submit_unknown", token=token, error=error.message)
        raise
    except LauncherError as error:
        run.journal.write("submit_refused", token=token, error=error.message)
        raise
    run.journal.write(
        "submitted", mode="sbatch", job=submission.job, cluster=submission.cluster, recovered=submission.recovered
    )
    return submission


def token_of(plan: Plan) -> str:
    """What tells this submission from every other: it stands in the job's comment."""
    return dict(plan.directives)["comment"] or ""
