"""Watching a batch job that was just submitted; Ctrl-C leaves it alone."""

import time
from typing import Any

from launcher._util.shell import LocalShell
from launcher.backends.wait import Interrupts, summary
from launcher.cli.outcome import tell
from launcher.cli.output import say
from launcher.rundir import RunDirectory
from launcher.slurm.poller import Poller
from launcher.watch.follower import Follower
from launcher.watch.status import status_of

_TICK_S = 0.2
_ASK_S = 3.0
"""Between questions whether the job is over."""


def follow(run: RunDirectory, job: str, counted: Interrupts) -> tuple[int, dict[str, Any]]:
    """Watch until the run is over; the command's exit status, and the outcome as for `launcher run`.

    An interrupt, one that came before included, ends the watching and leaves the job alone.
    """
    asked = 0.0
    with Follower(run, Poller((job,), LocalShell())) as follower:
        while not counted.count:
            follower.tick()
            if time.monotonic() - asked > _ASK_S:
                asked = time.monotonic()
                status = status_of([run], LocalShell())[0][0]
                if status.phase.over:
                    break
            time.sleep(_TICK_S)
        else:
            say(
                f"job {job} goes on; launcher status {run.path.name} tells how, launcher cancel {run.path.name} ends it"
            )
            return 0, {"outcome": "running"}
    outcome = summary(run, run.latest_attempt())
    if outcome["outcome"] == "unknown":
        outcome["reason"] = f"{status.phase.value}: {status.detail}"
    tell(run, outcome)
    return (0 if outcome["outcome"] == "finished" else 1), outcome
