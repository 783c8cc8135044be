"""Whether a run keeps going by itself, and by which policy."""

import json
import re
from typing import TYPE_CHECKING

from launcher._util.errors import ConfigError
from launcher.planning.inputs import PlanInputs

if TYPE_CHECKING:
    from launcher.contract.records.request import RetryPolicy


def site_recovery(inputs: PlanInputs) -> str | None:
    """Return what in the request or the profile lets the site start a failed job or step again; None without it.

    That is `--auto-resume` of SageMaker HyperPod's srun, and `auto_resume_mode` of NVIDIA Mission Control in the
    comment of the job. Source: the manuals of both.
    """
    for word in (*inputs.cluster.srun_args, *inputs.request.srun_args):
        if re.fullmatch(r"--auto-resume(=(?!0$).*)?", word):
            return f"srun's {word}"
    for options in (inputs.request.sbatch, inputs.cluster.directives):
        try:
            comment = json.loads(str(options.get("comment")))
            mode = comment["APS"]["auto_resume_mode"]
        except (ValueError, KeyError, TypeError):
            continue  # a comment without it
        return f"the comment's auto_resume_mode={mode}"
    return None


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
    if (site := site_recovery(inputs)) is not None:
        raise ConfigError(
            f"{site} lets the site start the job again after a failure, and --keep-going does so too: "
            "both would act on the same failure",
            where="--keep-going",
            hint="Leave one of them out: --no-keep-going, or the site's.",
        )
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
