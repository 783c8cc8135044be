"""Whether a run keeps going by itself, and by which policy."""

from typing import TYPE_CHECKING

from launcher._util.errors import ConfigError
from launcher.planning.inputs import PlanInputs

if TYPE_CHECKING:
    from launcher.contract.records import RetryPolicy


def plan_retry(inputs: PlanInputs) -> "RetryPolicy | None":
    """Return the policy of a run that keeps going, None for any other.

    Only a batch job can come back by itself: in another mode the profile's key has no effect, and raises ConfigError
    where the request states it.
    """
    wanted = inputs.request.keep_going
    if not inputs.backend.own_job:
        if wanted:
            raise ConfigError(
                "--keep-going is for batch jobs: nothing starts the next attempt of a run in this shell",
                where="--keep-going",
                hint="Use `launcher submit`, or continue the run yourself with --resume.",
            )
        return None
    if not (inputs.cluster.keep_going if wanted is None else wanted):
        return None
    retry = inputs.cluster.retry
    excluded = inputs.request.sbatch.get("exclude", inputs.request.exclude or inputs.cluster.directives.get("exclude"))
    return {
        "without_progress": retry.without_progress,
        "backoff_s": retry.backoff_s,
        "strikes": retry.strikes,
        "strike_hours": retry.strike_hours,
        "excluded_percent": retry.excluded_percent,
        "exclude": str(excluded) if isinstance(excluded, str) and excluded else None,
    }
