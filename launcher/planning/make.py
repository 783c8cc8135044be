"""`make_plan`: the one place that decides everything about a run, from values alone."""

import dataclasses
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher._util.version import __version__
from launcher.discovery.megatron_core import pair_warning
from launcher.planning import (
    assignments,
    container,
    environment,
    environment_lint,
    index_info,
    node_share,
    resume_changes,
    retry,
    step,
)
from launcher.planning.inputs import FromArguments, FromCheck, FromIndex, PlanInputs
from launcher.planning.layout import PARALLEL_KEYS
from launcher.planning.model import Plan
from launcher.planning.overrides import known_values
from launcher.planning.preflight.run import FUSION, switches_fusion_off
from launcher.planning.run_paths import run_root
from launcher.planning.task import TaskPlan, plan_task

__all__ = ["PlanInputs", "make_plan", "run_root"]


_OF_ONE_COMMAND = {"resume", "allow_changes", "attempts"}
"""Keys of a request that --resume does not ask for again."""


def make_plan(inputs: PlanInputs) -> Plan:
    """Decide the run. Raises a RequestError of the kind that fits for whatever cannot work."""
    request, cluster = inputs.request, inputs.cluster
    if request.allow_changes and inputs.previous is None:
        raise ConfigError("--allow-change permits a resumed run to change, and this run is new", where="--allow-change")
    if request.attempts is not None and not inputs.backend.own_job:
        raise ConfigError("--attempts queues batch jobs, and this run begins here", where="--attempts")
    task = plan_task(inputs)
    runtime = container.chosen_runtime(request, cluster)
    named = environment.overrides_image(task.environment)
    directives = step.sbatch_options(
        inputs, task.layout, task.environment, task.name, task.run_dir, task.fabric.segment
    )
    plan = Plan(
        version=1,
        launcher=__version__,
        backend=inputs.backend,
        name=task.name,
        run_id=Path(task.run_dir).name,
        run_dir=task.run_dir,
        shared=request.shared,
        shared_run_root=cluster.shared_run_root,
        submission=inputs.submission,
        recipe=inputs.recipe_text or request.recipe or "",
        cluster=cluster.name,
        device=cluster.device,
        runtime=runtime.name,
        runtime_origin=inputs.runtime.origin if inputs.runtime else None,
        image=container.describe_image(inputs.image) if inputs.image else None,
        container=container.plan_container(inputs, runtime, task.mounts, task.run_dir, named),
        python=task.python,
        launcher_python=cluster.launcher_python or inputs.host.python,
        layout=task.layout,
        network=task.fabric.summary,
        placement=task.fabric.placement,
        overrides=tuple(override.text for override in task.overrides),
        environment=task.environment,
        mounts=task.mounts,
        profiler=task.profiler,
        directives=directives,
        token=step.token(inputs, task.run_dir),
        stop_s=step.stop_seconds(inputs),
        step=step.plan_step(inputs, task.layout, task.environment, task.profiler),
        rendezvous=step.plan_rendezvous(cluster),
        argv=task.argv,
        code=task.code,
        request=request.model_dump(exclude_defaults=True, exclude=_OF_ONE_COMMAND),
        unchecked=_unchecked(inputs, task),
        warnings=(*_warnings(inputs, task), *task.fabric.warnings, *task.preflight.warnings),
        source=_source(inputs),
        shipped=_shipped(inputs),
        code_digest=inputs.code_digest,
        bridge=inputs.bridge,
        allocation=step.allocation_part(inputs, task.allocation),
        guesses=task.fabric.guesses,
        memory=task.preflight.memory,
        peak_tflops=cluster.peak_tflops,
        checkpoints=task.preflight.checkpoints,
        spares=step.plan_spares(inputs, task.layout, task.mounts, dict(directives).get("segment")),
        gates=step.plan_gates(inputs),
    )
    if inputs.previous is None:
        return plan
    changes = resume_changes.find_changes(inputs.previous, plan)
    resume_changes.require_permission(changes, request.allow_changes, task.run_dir)
    return dataclasses.replace(plan, changes=changes)


def _source(inputs: PlanInputs) -> dict[str, Any] | None:
    git = inputs.shipped.git
    return {"commit": git.commit, "branch": git.branch, "changed": list(git.changed), "diff": git.diff} if git else None


def _shipped(inputs: PlanInputs) -> dict[str, int] | None:
    files = len(inputs.shipped.files)
    return {"files": files, "bytes": inputs.shipped.bytes} if files else None


def _unchecked(inputs: PlanInputs, task: TaskPlan) -> tuple[str, ...]:
    image = (*(inputs.runtime.unchecked if inputs.runtime else ()), *(inputs.image.unchecked if inputs.image else ()))
    profiler = task.profiler.unchecked if task.profiler else ()
    nodes = node_share.unchecked(inputs)
    return (*nodes, *image, *_of_recipe(inputs), *task.preflight.unchecked, *task.fabric.unchecked, *profiler)


def _of_recipe(inputs: PlanInputs) -> tuple[str, ...]:
    """Return what only running the recipe can show."""
    knowledge, stated = inputs.knowledge, known_values(inputs.overrides)
    if isinstance(knowledge, FromCheck | FromArguments):
        return ()
    added = tuple(f"whether the recipe or a plug-in has {key}" for key in inputs.added_keys)
    if isinstance(knowledge, FromIndex) and knowledge.match.recipe is not None:
        return (*index_info.unchecked(knowledge.match, {**knowledge.values, **stated}), *added)
    sizes = [key for key in PARALLEL_KEYS.values() if key not in stated]
    decides = (f"{key}: the recipe decides" for key in sizes)
    return (*decides, "the recipe's env_vars", "the recipe's own values", *added)


_NOT_CHECKED = (
    "NOT CHECKED: the recipe was not run, so what it decides is unknown: parallel sizes, batch sizes, dispatcher, "
    "env_vars, memory. It is run where the training stack is installed, or an image with it can be entered; "
    "--check-on node runs it in a short job"
)


def _warnings(inputs: PlanInputs, task: TaskPlan) -> tuple[str, ...]:
    found = [*assignments.replaced_warnings(inputs.request.assignments), *inputs.renamed, *inputs.without_effect]
    unasked = inputs.request.check_config is None and inputs.request.entrypoint is None
    if unasked and inputs.backend.own_job and not inputs.knowledge.recipe_is_known:
        found.append(_NOT_CHECKED)
    found += [
        f"{variable.name}: {variable.origin} overrides {', '.join(origin for origin, _ in variable.overridden)}"
        for variable in task.environment
        # That PATH and HOME are the image's own is how a container works, no surprise.
        if variable.overridden and variable.scope != "image"
    ]
    found += [
        f"{name} is set in this shell, and the launcher does not use it: give the option instead"
        for name in sorted(inputs.host.environ)
        if name.startswith(("SBATCH_", "SRUN_"))
    ]
    found += inputs.shipped.warnings
    found += inputs.runtime.warnings if inputs.runtime else ()
    if (site := retry.site_recovery(inputs)) is not None and site.startswith("srun's"):
        found.append(
            f"{site} may start the step again inside the same attempt: its ranks refuse a second start, because an "
            "attempt's records are written once, and the run ends there; --resume continues it"
        )
    if switches_fusion_off(inputs):
        found.append(
            f"{FUSION}=false is set, because this machine's interpreter has no APEX, whose kernel it needs; "
            "state the key to decide it yourself"
        )
    found += task.allocation.warnings if task.allocation else node_share.warnings(inputs, task.layout)
    if isinstance(inputs.knowledge, FromIndex):
        found += index_info.warnings(inputs.knowledge.match)
        if index_info.BATCH_KEY not in {override.key for override in task.overrides}:
            found += index_info.scaling(inputs.knowledge.match, inputs.knowledge.values, task.world_size)
    if inputs.mcore is not None:
        found.append(f"Megatron-Core {inputs.mcore.version or '?'} of {inputs.mcore.path} is imported")
        found += [text] if (text := pair_warning(inputs.mcore, inputs.bridge)) else []
    lint = environment_lint.LintContext(inputs.cluster, task.layout.nodes)
    found += environment_lint.warnings(task.environment, lint)
    if inputs.image:
        found += [*inputs.image.warnings, *container.mount_warnings(task.mounts, inputs.image)]
    return tuple(found)
