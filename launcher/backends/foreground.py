"""Starting a plan here, and judging its end."""

from collections.abc import Callable

from launcher._util.errors import LauncherError
from launcher.backends.allocation import AllocatedStep
from launcher.backends.image_uses import forget_image_use, record_image_use
from launcher.backends.local import LocalRanks
from launcher.backends.prepare import prepare
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory

Here = LocalRanks | AllocatedStep


def here(
    plan: Plan, host: HostContext, resumed: RunDirectory | None, warn: Callable[[str], None]
) -> tuple[Here, RunDirectory]:
    """Write the run directory and start its ranks, on this machine or in this allocation.

    Raises DiskError, CommandError, or ImageError for an image that was removed meanwhile; a new run that could not be
    started leaves nothing behind.
    """
    prepared = prepare(plan, resumed)
    run = prepared.run
    step: Here
    try:
        if warning := record_image_use(plan, host):
            warn(warning)
        if plan.mode == "local":
            step = LocalRanks(run, run.begin_attempt(), plan, host.python, host.environ)
        else:
            step = AllocatedStep(run, plan, host.environ)
        step.start()
    except LauncherError:
        forget_image_use(plan)
        prepared.take_back()
        raise
    return step, run


def finish(step: Here, status: int) -> int:
    """The command's exit status: 0 finished, 1 failed or stopped, 3 could not tell."""
    if isinstance(step, LocalRanks):
        return 0 if step.judge(status) == "finished" else 1
    return status if status in (0, 1) else 3
