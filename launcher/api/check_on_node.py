"""--check-on node: the check of a configuration in a short job on a compute node, where the training stack is."""

import dataclasses
import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, PrerequisiteError
from launcher._util.shell import LocalShell, Shell
from launcher.api.discover import Discovered
from launcher.api.progress import Progress
from launcher.backends.entrypoint_call import EntrypointCall
from launcher.backends.wait import interrupts
from launcher.config.request import Request
from launcher.contract import files
from launcher.contract.paths import CHECK, ENTRYPOINT
from launcher.contract.records.request import CheckRequest
from launcher.discovery.host import new_run_id
from launcher.doctor import job
from launcher.planning.inputs import FromOverrides, PlanInputs
from launcher.planning.make import make_plan
from launcher.planning.model import Plan
from launcher.planning.profiler.model import ProfilerContext
from launcher.planning.task import TaskPlan

_PROGRAM = Path(__file__).resolve().parents[1] / "job/config/entry/check.py"
_TIME_LIMIT = "15"
"""Minutes: a check takes two, and a short job starts sooner. The time of the run itself does not count."""
_LEFT_OUT = (
    *("nsys", "profiler", "profile_steps", "profile_ranks", "nsys_trace", "nsys_args", "gpu_metrics", "nsys_from"),
    *("attempts", "spares", "resume", "allow_changes", "scale_batch", "check_on", "probe"),
    *("notify", "notify_url"),
)
"""Keys of the request that are for the run and not for its check."""
_OF_THE_RUN = (*("dependency", "begin", "deadline", "hold", "segment", "signal", "array", "time", "time-min"),)
"""Options of sbatch that are for the run and not for its check."""


def check_on_node(
    found: Discovered, task: TaskPlan, request: CheckRequest, progress: Progress, shell: Shell | None = None
) -> tuple[dict[str, Any], EntrypointCall]:
    """Return the answer of the check, and what turns paths of its copy into the user's own.

    The job is an ordinary run of one rank with the name NAME-check: image, environment and mounts are those of the run.
    Raises PrerequisiteError without Slurm, CommandError where the job ends without an answer.
    """
    if not found.inputs.backend.slurm_step:
        raise PrerequisiteError(
            "--check-on node submits a job, and this run starts without Slurm",
            hint="Leave it out, and the check runs here.",
        )
    with tempfile.TemporaryDirectory(prefix="launcher-check-") as directory:
        (Path(directory) / CHECK).write_text(json.dumps(request), encoding="utf-8")
        plan = make_plan(_inputs(found, task, Path(directory) / CHECK))
        start = job.run_as_job if plan.backend.own_job else job.run_in_foreground
        with interrupts() as counted:
            ran = start(plan, found.inputs.host, shell or LocalShell(), counted, progress.info)
    attempt = ran.run.latest_attempt()
    answer = files.read_object(attempt.path / CHECK) if attempt else None
    if answer is None or "ok" not in answer:
        raise CommandError(
            f"the check on a node gave no answer: {ran.why or 'the ranks of its job failed'}",
            hint=f"launcher logs {ran.run.path}",
        )
    return answer, EntrypointCall((), {}, _sources(plan))


def _inputs(found: Discovered, task: TaskPlan, request: Path) -> PlanInputs:
    """Return what the job of the check is made from: one rank of the run, with another program and no sizes."""
    inputs = found.inputs
    sbatch = {key: value for key, value in inputs.request.sbatch.items() if key not in _OF_THE_RUN}
    if inputs.backend.own_job:
        sbatch["time"] = _TIME_LIMIT  # before a profile's directive, too
    plain = Request()
    update: dict[str, Any] = {
        **{name: getattr(plain, name) for name in _LEFT_OUT},
        "nodes": 1,
        "gpus_per_node": 1,
        "time": _TIME_LIMIT,
        "sbatch": sbatch,
        "name": f"{task.name[:58]}-check",
        "check_config": False,
        "keep_going": False,
    }
    code = tuple(pair for pair in inputs.code if pair[0] != ENTRYPOINT)
    host = dataclasses.replace(
        inputs.host, run_id=new_run_id(inputs.host.now), nonce=secrets.token_hex(len(inputs.host.nonce) // 2)
    )
    return dataclasses.replace(
        inputs,
        request=inputs.request.model_copy(update=update),
        host=host,
        arguments={},
        overrides=(),
        code=tuple(sorted((*code, (ENTRYPOINT, str(_PROGRAM)), (CHECK, str(request))))),
        knowledge=FromOverrides(),
        submission=0,
        run_dir=None,
        previous=None,
        profiling=ProfilerContext(),
        use_viztracer=None,
        hosts=inputs.hosts[:1],
        save_s=None,
        renamed=(),
        added_keys=(),
    )


def _sources(plan: Plan) -> tuple[tuple[str, str], ...]:
    return tuple((f"{plan.run_dir}/code/{target}", source) for target, source in plan.code)
