"""`make_plan`: everything is decided here and nowhere else, from values alone."""

from pathlib import Path
from typing import Any

from launcher import __version__
from launcher._util.errors import GeometryError
from launcher.discovery.recipe import BridgeRecipe
from launcher.planning import (
    container,
    environment,
    environment_lint,
    fabric,
    foreseen,
    index_info,
    layout,
    network,
    run_paths,
    step,
)
from launcher.planning.inputs import Given
from launcher.planning.model import Geometry, Mount, Plan, Variable
from launcher.planning.overrides import known_values
from launcher.planning.profiler import choice
from launcher.planning.profiler.model import Capture
from launcher.planning.run_paths import run_root

__all__ = ["Given", "make_plan", "run_root"]


def make_plan(given: Given) -> Plan:
    """Decide the run. Raises a RequestError of the kind that fits for whatever cannot work."""
    request, cluster, world = given.request, given.cluster, given.world
    values = known_values(given.overrides)
    shape = _geometry(given, values)
    profiler = _profiler(given, values, shape)
    around = fabric.decide(given, shape, values)
    ahead = foreseen.look_ahead(given, shape)
    variables = _environment(given, around.variables)
    name = request.name or run_paths.name_of(given.recipe)
    run_dir = given.run_dir or run_paths.run_dir(given, name)
    runtime = container.chosen_runtime(request, cluster)
    mounts = container.decide_mounts(request, cluster, runtime, run_dir, profiler.mounts if profiler else ())
    texts = _override_texts(given, profiler)
    return Plan(
        version=1,
        launcher=__version__,
        mode=given.mode,
        name=name,
        run_id=Path(run_dir).name,
        run_dir=run_dir,
        shared=request.shared,
        submission=given.submission,
        recipe=request.recipe or "",
        cluster=cluster.name,
        device=cluster.device,
        runtime=runtime,
        image=container.planned(given.image) if given.image else None,
        container=container.decide(given, runtime, mounts, run_dir, environment.beats_image(variables)),
        python=cluster.python or ("python3" if given.image else world.python),
        launcher_python=cluster.launcher_python or world.python,
        geometry=shape,
        network=around.summary,
        placement=around.placement,
        overrides=texts,
        environment=variables,
        mounts=mounts,
        profiler=profiler,
        directives=step.sbatch_options(given, shape, variables, name, run_dir, around.segment),
        step=step.decide(given, shape, variables, profiler),
        argv=_argv(given, shape, texts, profiler),
        code=given.code,
        request=request.model_dump(mode="json", exclude_defaults=True, exclude={"resume"}),
        unchecked=(*_unchecked(given, values, ahead), *around.unchecked, *(profiler.unchecked if profiler else ())),
        warnings=(*_warnings(given, shape, variables, mounts), *around.warnings, *ahead.warnings),
        memory=ahead.memory,
    )


def _environment(given: Given, network_variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    return environment.decide(
        cluster=given.cluster.name,
        profile=given.cluster.env,
        host=given.cluster.host_env,
        inherit=given.cluster.inherit,
        recipe=given.recipe_env or {},
        user=given.request.env,
        shell=given.world.environ,
        image=given.image.environment if given.image else None,
        network=network_variables,
    )


def _profiler(given: Given, values: dict[str, Any], shape: Geometry) -> Capture | None:
    return choice.capture(
        choice.wish_of(given.request),
        values,
        world_size=shape.world_size,
        ranks_per_node=shape.ranks_per_node,
        place=given.profiling,
        viztracer=given.use_viztracer,
        unknown=[override.key for override in given.overrides if override.key not in values],
    )


def _override_texts(given: Given, profiler: Capture | None) -> tuple[str, ...]:
    """The user's, after those that a profiler adds."""
    added = choice.overrides(profiler, [override.key for override in given.overrides]) if profiler else ()
    return (*added, *(override.text for override in given.overrides))


def _geometry(given: Given, values: dict[str, Any]) -> Geometry:
    known = {**given.recipe_values, **values}
    sizes = {short: known[key] for short, key in layout.PARALLEL_KEYS.items() if isinstance(known.get(key), int)}
    local = given.mode == "local"
    try:
        return layout.decide(
            nodes=given.request.nodes,
            gpus_per_node=given.request.gpus_per_node,
            profile_gpus_per_node=given.cluster.gpus_per_node,
            # A batch job gets an allocation of its own, whatever this shell is in.
            allocation=given.world.allocation if given.mode == "srun" else None,
            machine_gpus=None if not local else 0 if given.cluster.device == "cpu" else given.world.gpus,
            sizes=sizes,
        )
    except GeometryError as error:
        error.hint = index_info.with_source(error.hint, given.indexed)
        raise


def _argv(given: Given, shape: Geometry, overrides: tuple[str, ...], profiler: Capture | None) -> dict[str, Any]:
    if isinstance(given.recipe, BridgeRecipe):
        recipe = {"bridge": given.recipe.name}
    else:
        recipe = {"path": f"recipe/{given.recipe.path.name}", "function": given.recipe.function}
    return {
        "version": 1,
        "recipe": recipe,
        "arguments": given.arguments,
        "overrides": list(overrides),
        "settings": {
            "device": given.cluster.device,
            "load": given.request.load,
            "init": given.request.init,
            "profiler": profiler.settings() if profiler else None,
            "user_env": sorted(entry.partition("=")[0] for entry in given.request.env),
            "network": network.settings(given.cluster, shape),
            "numa_binding": given.cluster.numa_binding,
        },
    }


def _unchecked(given: Given, values: dict[str, Any], ahead: foreseen.Foreseen) -> tuple[str, ...]:
    image = given.image.unchecked if given.image else ()
    if given.indexed is not None and given.indexed.recipe is not None:
        known = {**given.recipe_values, **values}
        return (*image, *index_info.unchecked(given.indexed, known), *ahead.unchecked)
    if given.recipe_env is not None:
        return (*image, *ahead.unchecked)
    stated = [key for key in layout.PARALLEL_KEYS.values() if key not in values]
    recipe = (*(f"{key}: the recipe decides" for key in stated), "the recipe's env_vars", "the recipe's own values")
    return (*image, *recipe, *ahead.unchecked)


def _warnings(
    given: Given, shape: Geometry, variables: tuple[Variable, ...], mounts: tuple[Mount, ...]
) -> tuple[str, ...]:
    found = [
        f"{variable.name}: {variable.origin} beats {', '.join(origin for origin, _ in variable.beaten)}"
        for variable in variables
        # That PATH and HOME are the image's own is how a container works, no surprise.
        if variable.beaten and variable.place != "image"
    ]
    found += [
        f"{name} is set in this shell, and the launcher does not use it: give the option instead"
        for name in sorted(given.world.environ)
        if name.startswith(("SBATCH_", "SRUN_"))
    ]
    if step.too_few_cpus(given, shape):
        found.append(
            f"the allocation has fewer CPUs than the {shape.ranks_per_node} ranks of a node, so they share them: "
            f"salloc --exclusive or --ntasks-per-node={shape.ranks_per_node} gives each its own"
        )
    found += index_info.warnings(given.indexed)
    found += environment_lint.warnings(variables, environment_lint.Place(given.cluster, shape.nodes))
    if given.image:
        found += [*given.image.warnings, *container.mount_warnings(mounts, given.image)]
    return tuple(found)
