"""`make_plan`: everything is decided here and nowhere else, from values alone."""

from pathlib import Path
from typing import Any

from launcher import __version__
from launcher._util.errors import LayoutError
from launcher.contract.paths import RECIPE
from launcher.contract.records import BridgeRecipeRequest, JobRequest, RecipeFileRequest
from launcher.discovery.recipe import BridgeRecipe
from launcher.planning import (
    container,
    environment,
    environment_lint,
    fabric,
    index_info,
    network,
    run_paths,
    step,
)
from launcher.planning.inputs import PlanInputs
from launcher.planning.layout import PARALLEL_KEYS, plan_layout
from launcher.planning.model import Plan, RankLayout, Variable
from launcher.planning.overrides import known_values
from launcher.planning.preflight.run import PreflightResult, run_preflight
from launcher.planning.profiler import plan as profiler_plan
from launcher.planning.profiler.model import ProfilerPlan
from launcher.planning.run_paths import run_root
from launcher.runtimes.model import Mount

__all__ = ["PlanInputs", "make_plan", "run_root"]


def make_plan(inputs: PlanInputs) -> Plan:
    """Decide the run. Raises a RequestError of the kind that fits for whatever cannot work."""
    request, cluster, host = inputs.request, inputs.cluster, inputs.host
    values = known_values(inputs.overrides)
    layout = _layout(inputs, values)
    profiler = _profiler(inputs, values, layout)
    fabric_plan = fabric.plan_fabric(inputs, layout, values)
    ahead = run_preflight(inputs, layout)
    variables = _environment(inputs, fabric_plan.variables)
    name = request.name or run_paths.name_of(inputs.recipe)
    run_dir = inputs.run_dir or run_paths.run_dir(inputs, name)
    runtime = container.chosen_runtime(request, cluster)
    mounts = container.plan_mounts(request, cluster, runtime, run_dir, profiler.mounts if profiler else ())
    texts = _override_texts(inputs, profiler)
    return Plan(
        version=1,
        launcher=__version__,
        backend=inputs.backend,
        name=name,
        run_id=Path(run_dir).name,
        run_dir=run_dir,
        shared=request.shared,
        submission=inputs.submission,
        recipe=request.recipe or "",
        cluster=cluster.name,
        device=cluster.device,
        runtime=runtime.name,
        image=container.describe_image(inputs.image) if inputs.image else None,
        container=container.plan_container(inputs, runtime, mounts, run_dir, environment.overrides_image(variables)),
        python=cluster.python or ("python3" if inputs.image else host.python),
        launcher_python=cluster.launcher_python or host.python,
        layout=layout,
        network=fabric_plan.summary,
        placement=fabric_plan.placement,
        overrides=texts,
        environment=variables,
        mounts=mounts,
        profiler=profiler,
        directives=step.sbatch_options(inputs, layout, variables, name, run_dir, fabric_plan.segment),
        step=step.plan_step(inputs, layout, variables, profiler),
        argv=_argv(inputs, layout, texts, profiler),
        code=inputs.code,
        request=request.model_dump(mode="json", exclude_defaults=True, exclude={"resume"}),
        unchecked=(
            *_unchecked(inputs, values, ahead),
            *fabric_plan.unchecked,
            *(profiler.unchecked if profiler else ()),
        ),
        warnings=(*_warnings(inputs, layout, variables, mounts), *fabric_plan.warnings, *ahead.warnings),
        memory=ahead.memory,
    )


def _environment(inputs: PlanInputs, network_variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    return environment.plan_environment(
        cluster=inputs.cluster.name,
        profile=inputs.cluster.env,
        host=inputs.cluster.host_env,
        inherit=inputs.cluster.inherit,
        recipe=inputs.recipe_env or {},
        user=inputs.request.env,
        shell=inputs.host.environ,
        image=inputs.image.environment if inputs.image else None,
        network=network_variables,
    )


def _profiler(inputs: PlanInputs, values: dict[str, Any], layout: RankLayout) -> ProfilerPlan | None:
    return profiler_plan.plan_profiler(
        profiler_plan.options_from(inputs.request),
        values,
        world_size=layout.world_size,
        ranks_per_node=layout.ranks_per_node,
        context=inputs.profiling,
        viztracer=inputs.use_viztracer,
        unknown=[override.key for override in inputs.overrides if override.key not in values],
    )


def _override_texts(inputs: PlanInputs, profiler: ProfilerPlan | None) -> tuple[str, ...]:
    """The user's, after those that a profiler adds."""
    added = profiler_plan.overrides(profiler, [override.key for override in inputs.overrides]) if profiler else ()
    return (*added, *(override.text for override in inputs.overrides))


def _layout(inputs: PlanInputs, values: dict[str, Any]) -> RankLayout:
    known = {**inputs.recipe_values, **values}
    sizes = {short: known[key] for short, key in PARALLEL_KEYS.items() if isinstance(known.get(key), int)}
    one_machine = not inputs.backend.slurm_step
    try:
        return plan_layout(
            nodes=inputs.request.nodes,
            gpus_per_node=inputs.request.gpus_per_node,
            profile_gpus_per_node=inputs.cluster.gpus_per_node,
            # A batch job gets an allocation of its own, whatever this shell is in.
            allocation=inputs.host.allocation if inputs.backend.current_allocation else None,
            machine_gpus=None if not one_machine else 0 if inputs.cluster.device == "cpu" else inputs.host.gpus,
            sizes=sizes,
        )
    except LayoutError as error:
        error.hint = index_info.with_source(error.hint, inputs.index_match)
        raise


def _argv(
    inputs: PlanInputs, layout: RankLayout, overrides: tuple[str, ...], profiler: ProfilerPlan | None
) -> JobRequest:
    recipe: RecipeFileRequest | BridgeRecipeRequest
    if isinstance(inputs.recipe, BridgeRecipe):
        recipe = {"bridge": inputs.recipe.name}
    else:
        recipe = {"path": f"{RECIPE}/{inputs.recipe.path.name}", "function": inputs.recipe.function}
    return {
        "version": 1,
        "recipe": recipe,
        "arguments": inputs.arguments,
        "overrides": list(overrides),
        "options": {
            "device": inputs.cluster.device,
            "load": inputs.request.load,
            "init": inputs.request.init,
            "profiler": profiler.settings() if profiler else None,
            "user_env": sorted(entry.partition("=")[0] for entry in inputs.request.env),
            "network": network.settings(inputs.cluster, layout),
            "numa_binding": inputs.cluster.numa_binding,
        },
    }


def _unchecked(inputs: PlanInputs, values: dict[str, Any], ahead: PreflightResult) -> tuple[str, ...]:
    image = inputs.image.unchecked if inputs.image else ()
    if inputs.index_match is not None and inputs.index_match.recipe is not None:
        known = {**inputs.recipe_values, **values}
        return (*image, *index_info.unchecked(inputs.index_match, known), *ahead.unchecked)
    if inputs.recipe_env is not None:
        return (*image, *ahead.unchecked)
    stated = [key for key in PARALLEL_KEYS.values() if key not in values]
    recipe = (*(f"{key}: the recipe decides" for key in stated), "the recipe's env_vars", "the recipe's own values")
    return (*image, *recipe, *ahead.unchecked)


def _warnings(
    inputs: PlanInputs, layout: RankLayout, variables: tuple[Variable, ...], mounts: tuple[Mount, ...]
) -> tuple[str, ...]:
    found = [
        f"{variable.name}: {variable.origin} overrides {', '.join(origin for origin, _ in variable.overridden)}"
        for variable in variables
        # That PATH and HOME are the image's own is how a container works, no surprise.
        if variable.overridden and variable.scope != "image"
    ]
    found += [
        f"{name} is set in this shell, and the launcher does not use it: give the option instead"
        for name in sorted(inputs.host.environ)
        if name.startswith(("SBATCH_", "SRUN_"))
    ]
    if step.too_few_cpus(inputs, layout):
        found.append(
            f"the allocation has fewer CPUs than the {layout.ranks_per_node} ranks of a node, so they share them: "
            f"salloc --exclusive or --ntasks-per-node={layout.ranks_per_node} gives each its own"
        )
    found += index_info.warnings(inputs.index_match)
    found += environment_lint.warnings(variables, environment_lint.LintContext(inputs.cluster, layout.nodes))
    if inputs.image:
        found += [*inputs.image.warnings, *container.mount_warnings(mounts, inputs.image)]
    return tuple(found)
