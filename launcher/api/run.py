"""Running a recipe here: in the Slurm allocation that this shell is in, or as processes of this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher._util.shell import LocalShell
from launcher.api.prepare_plan import PreparedPlan, start_new
from launcher.api.progress import Progress
from launcher.api.resume import starting_alone
from launcher.backends import start, wait
from launcher.backends.protocol import StartedRun
from launcher.backends.wait import Interrupts
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Outcome:
    """What came of a run that was waited for."""

    run: RunDirectory
    summary: dict[str, Any]
    """The attempt's result.json with `run_dir` and `attempt`; `outcome` is `unknown` where no verdict was written."""
    exit_status: int
    """0 finished, 1 failed or stopped early, 3 unknown."""


def start_run(prepared: PreparedPlan, progress: Progress) -> StartedRun:
    """Write the run directory of a plan for `run` and start its ranks; `wait_for_run` has to be called then.

    Raises DiskError, CommandError, or ImageError for an image that was removed meanwhile; a new run that could not be
    started leaves nothing behind.
    """
    for warning in prepared.plan.warnings:
        progress.warn(warning)
    for change in prepared.plan.changes:
        progress.info(f"changed: {change}")

    def begin(made: PreparedPlan) -> StartedRun:
        return start.start_run(made.plan, made.inputs.host, made.resumed, LocalShell(), progress.warn)

    with starting_alone(prepared.resumed):
        return start_new(prepared, begin)


def wait_for_run(
    started: StartedRun, counted: Interrupts, *, tick: Callable[[], None], say: Callable[[str], None]
) -> Outcome:
    """Wait for the end. The first interrupt asks the ranks to save and stop, the second ends them.

    `tick` is called ten times a second, `say` with a sentence for the user.
    """
    status = wait.wait(started, counted, tick=tick, say=say)
    return Outcome(started.run, wait.summary(started.run, started.run.latest_attempt()), status)
