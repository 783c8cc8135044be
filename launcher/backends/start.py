"""Starting a plan with the backend that it names."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from launcher._util.errors import LauncherError, RequestError, SlurmError
from launcher._util.shell import Shell
from launcher.backends.allocation import AllocationBackend
from launcher.backends.batch import BatchBackend, BatchJob, QueuedUnrecordedError
from launcher.backends.image_uses import forget_image_use, record_image_use
from launcher.backends.local import LocalBackend
from launcher.backends.prepare import Prepared, prepare
from launcher.backends.protocol import Backend, StartedRun
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.runtimes import RUNTIMES
from launcher.slurm.info import srun_help
from launcher.slurm.submit import SubmissionUnknownError

BACKENDS: Mapping[str, Backend[StartedRun]] = {
    backend.traits.name: backend for backend in (LocalBackend(), AllocationBackend(), BatchBackend())
}


def start_run(
    plan: Plan, host: HostContext, resumed: RunDirectory | None, shell: Shell, warn: Callable[[str], None]
) -> StartedRun:
    """Write the run directory of a plan and start the run.

    Raises DiskError, CommandError, SlurmError, or ImageError for an image that was removed meanwhile. A new run that
    was not started leaves nothing behind; where the job exists or may exist, the directory stays, because the job
    would need it.
    """
    _require_runtime(plan, shell)
    return _start(BACKENDS[plan.backend.name], plan, host, prepare(plan, resumed), shell, warn)


def submit_run(
    plan: Plan,
    host: HostContext,
    resumed: RunDirectory | None,
    shell: Shell,
    warn: Callable[[str], None],
    *,
    again: RunDirectory | None = None,
) -> BatchJob:
    """Start a plan for the batch backend, as `start_run` does.

    `again` is the directory of a new run that an interrupted try of this very submission has made whole.
    """
    _require_runtime(plan, shell)
    prepared = Prepared(again) if again is not None else prepare(plan, resumed)
    return _start(BatchBackend(), plan, host, prepared, shell, warn)


Started = TypeVar("Started", bound=StartedRun)


def _start(
    backend: Backend[Started],
    plan: Plan,
    host: HostContext,
    prepared: Prepared,
    shell: Shell,
    warn: Callable[[str], None],
) -> Started:
    run = prepared.run
    try:
        if warning := record_image_use(plan, host):
            warn(warning)
        return backend.start(plan, run, host, shell)
    except SubmissionUnknownError as error:
        raise SlurmError(
            error.message,
            hint=f"The run directory stays, because the job would need it: launcher status {run.path}\n{error.hint}",
        ) from error
    except QueuedUnrecordedError:
        raise
    except LauncherError:
        forget_image_use(plan)
        prepared.rollback()
        raise


def _require_runtime(plan: Plan, shell: Shell) -> None:
    """Raise RequestError where srun lacks the options of the plan's runtime: the job would fail on its nodes."""
    runtime = RUNTIMES[plan.runtime]
    if plan.container is None or not runtime.needs_srun or runtime.srun_option is None:
        return
    try:
        missing = runtime.why_unavailable(srun_help(shell), frozenset())
    except SlurmError:
        return  # Slurm itself will say more when the job is submitted
    if missing is not None:
        others = ", ".join(name for name, each in RUNTIMES.items() if each.is_container and each is not runtime)
        raise RequestError(
            f"the runtime {runtime.name} cannot start a container here: {missing}",
            hint=f"Choose another runtime (--runtime {others}), or ask the site for {runtime.name}.",
        )
