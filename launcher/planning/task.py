"""What the tasks of a run are started with: the part of a plan that does not depend on how they are started.

Asking the entrypoint something before the run (--check-config, --fetch) needs this part and no more.
"""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from launcher._util.errors import LayoutError, OverrideError
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract.frozen import dataclass
from launcher.contract.overrides import to_record
from launcher.contract.paths import RECIPE
from launcher.contract.values import Override, parse
from launcher.discovery.recipe import BridgeRecipe, MegatronScript
from launcher.planning import (
    container,
    environment,
    fabric,
    index_info,
    network,
    node_share,
    retry,
    run_paths,
)
from launcher.planning.allocation import AllocationUse, use_allocation
from launcher.planning.inputs import FromIndex, PlanInputs
from launcher.planning.layout import PARALLEL_KEYS, plan_layout
from launcher.planning.model import RankLayout, Variable
from launcher.planning.overrides import known_values
from launcher.planning.preflight.run import FUSION, PreflightResult, run_preflight, switches_fusion_off
from launcher.planning.profiler import plan as profiler_plan
from launcher.planning.profiler.model import ProfilerPlan
from launcher.runtimes.model import Mount

if TYPE_CHECKING:
    from launcher.contract.records.request import HangLimits, JobRequest, RecipeRequest


@dataclass(frozen=True)
class TaskPlan:
    """What each task of a run is started with, and what was decided on the way there."""

    name: str
    run_dir: str
    layout: RankLayout
    environment: tuple[Variable, ...]
    mounts: tuple[Mount, ...]
    python: str
    """The interpreter that tasks run with."""
    overrides: tuple[Override, ...]
    """Those that the profiler adds, then the user's."""
    argv: "JobRequest"
    """The content of argv.json."""
    code: tuple[tuple[str, str], ...]
    """What is copied below code/: the file's path there, and its source."""
    profiler: ProfilerPlan | None
    fabric: fabric.FabricPlan
    preflight: PreflightResult
    allocation: AllocationUse | None = None
    """What is taken of the allocation that this shell is in; None for other runs."""

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.layout.world_size


def plan_task(inputs: PlanInputs) -> TaskPlan:
    """Decide what the tasks of a run are started with. Raises a RequestError of the kind that fits."""
    values = known_values(inputs.overrides)
    use = _use_allocation(inputs)
    layout = _layout(inputs, values, use)
    profiler = _profiler(inputs, {**_iterations(inputs), **values}, layout)
    around = fabric.plan_fabric(inputs, layout, values)
    ahead = run_preflight(inputs, layout)
    variables = _environment(inputs, (*_interface(inputs.cluster), *around.variables))
    name = inputs.request.name or run_paths.name_of(inputs.recipe)
    run_dir = inputs.run_dir or run_paths.run_dir(inputs, name)
    runtime = container.chosen_runtime(inputs.request, inputs.cluster)
    needed = (*(profiler.mounts if profiler else ()), *_mounts_of(inputs))
    overrides = _overrides(inputs, profiler)
    return TaskPlan(
        name=name,
        run_dir=run_dir,
        layout=layout,
        environment=variables,
        mounts=container.plan_mounts(inputs.request, inputs.cluster, runtime, run_dir, needed),
        python=inputs.cluster.python or ("python3" if inputs.image else inputs.host.python),
        overrides=overrides,
        argv=_argv(inputs, layout, overrides, profiler),
        code=inputs.code,
        profiler=profiler,
        fabric=around,
        preflight=ahead,
        allocation=use,
    )


def with_scaled_batch(inputs: PlanInputs) -> PlanInputs:
    """Return the inputs with the global batch that --scale-batch asks for, as an override.

    Raises OverrideError where the batch is stated as well, or where it is not known what to scale.
    """
    if not inputs.request.scale_batch:
        return inputs
    if any(override.key == index_info.BATCH_KEY for override in inputs.overrides):
        text = f"--scale-batch computes the global batch, and {index_info.BATCH_KEY} is stated as well"
        raise OverrideError(text, where="--scale-batch", hint="Leave one of them out.")
    match = inputs.knowledge.match if isinstance(inputs.knowledge, FromIndex) else None
    if match is None or match.recipe is None or match.recipe.gpus is None:
        text = "it is not known for how many GPUs the recipe was written, so its batch cannot be scaled"
        raise OverrideError(text, where="--scale-batch", hint=f"State the batch: {index_info.BATCH_KEY}=N.")
    batch = index_info.scaled_batch(
        match, inputs.knowledge.values, _layout(inputs, {}, _use_allocation(inputs), sized=False).world_size
    )
    scaled = (parse(f"{index_info.BATCH_KEY}={batch}"),) if batch is not None else ()
    return dataclasses.replace(inputs, overrides=(*inputs.overrides, *scaled))


def _mounts_of(inputs: PlanInputs) -> tuple[str, ...]:
    script = inputs.recipe.mounts if isinstance(inputs.recipe, MegatronScript) else ()
    return (*script, *([str(inputs.mcore.path)] if inputs.mcore else ()))


def _said_to_megatron(overrides: tuple[Override, ...]) -> tuple[str, ...]:
    """Return the overrides that the launcher adds, as of nsys, in Megatron-LM's words."""
    from launcher.translation.translate import to_mlm

    return to_mlm([override.text for override in overrides], defaults=False).words


def _environment(inputs: PlanInputs, network_variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    return environment.plan_environment(
        profile=environment.of_profile(inputs.cluster, container=inputs.image is not None),
        inherit=inputs.cluster.inherit,
        recipe=inputs.knowledge.env or {},
        user=inputs.request.env,
        expand=inputs.request.expand_env,
        shell=inputs.host.environ,
        image=inputs.image.environment if inputs.image else None,
        network=network_variables,
    )


def _iterations(inputs: PlanInputs) -> dict[str, Any]:
    """Return the number of iterations that the recipe is known to make."""
    found = inputs.knowledge.values.get("train.train_iters")
    return {"train.train_iters": found} if isinstance(found, int) else {}


def _interface(cluster: Cluster) -> tuple[Variable, ...]:
    """Return what keeps the sockets of gloo and NCCL on the interface where the ranks meet."""
    name, origin = cluster.rendezvous.interface, f"cluster profile {cluster.name}, rendezvous.interface"
    if name is None or cluster.scheduler != "slurm":
        return ()
    # NCCL takes names that begin so, unless there is `=`; gloo takes the whole name.
    values = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    return tuple(Variable(variable, value, origin, "task") for variable, value in values.items())


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


def _overrides(inputs: PlanInputs, profiler: ProfilerPlan | None) -> tuple[Override, ...]:
    given = [override.key for override in inputs.overrides]
    added = (
        *(profiler_plan.overrides(profiler, given) if profiler else ()),
        *([f"{FUSION}=false"] if switches_fusion_off(inputs) else []),
    )
    return (*(parse(text) for text in added), *inputs.overrides)


def _use_allocation(inputs: PlanInputs) -> AllocationUse | None:
    if inputs.allocation is None:
        return None
    return use_allocation(
        inputs.allocation,
        nodes=inputs.request.nodes,
        hosts=inputs.hosts,
        gpus_per_node=inputs.request.gpus_per_node,
        profile_gpus_per_node=inputs.cluster.gpus_per_node,
        device=inputs.cluster.device,
        overcommit=any(
            word in ("--overcommit", "-O") for word in (*inputs.cluster.srun_args, *inputs.request.srun_args)
        ),
    )


def _layout(inputs: PlanInputs, values: dict[str, Any], use: AllocationUse | None, *, sized: bool = True) -> RankLayout:
    """Return the layout; unless it is `sized`, whether parallel sizes and batch fit is left open."""
    known = {**inputs.knowledge.values, **values} if sized else {}
    sizes = {short: known[key] for short, key in PARALLEL_KEYS.items() if isinstance(known.get(key), int)}
    one_machine = not inputs.backend.slurm_step
    try:
        return plan_layout(
            nodes=len(use.nodes) if use else inputs.request.nodes,
            gpus_per_node=use.ranks_per_node if use else inputs.request.gpus_per_node,
            profile_gpus_per_node=inputs.cluster.gpus_per_node or node_share.gpus_of_all(inputs.node_kinds),
            machine_gpus=None if not one_machine else 0 if inputs.cluster.device == "cpu" else inputs.host.gpus,
            sizes=sizes,
        )
    except LayoutError as error:
        if isinstance(inputs.knowledge, FromIndex):
            error.hint = index_info.with_source(error.hint, inputs.knowledge.match)
        raise


def hang_limits(request: Request, cluster: Cluster) -> "HangLimits":
    """Return how long the ranks may be without progress, by phase."""
    return {
        "hang_limit_s": cluster.hang_limit_s if request.hang_limit_s is None else request.hang_limit_s,
        "start_limit_s": cluster.start_limit_s,
        "first_step_limit_s": cluster.first_step_limit_s,
        "evaluation_limit_s": cluster.evaluation_limit_s,
        "save_limit_s": cluster.save_limit_s,
    }


def _argv(
    inputs: PlanInputs, layout: RankLayout, overrides: tuple[Override, ...], profiler: ProfilerPlan | None
) -> "JobRequest":
    recipe: RecipeRequest
    if isinstance(inputs.recipe, BridgeRecipe):
        recipe = {"bridge": inputs.recipe.name}
    elif isinstance(inputs.recipe, MegatronScript):
        script = inputs.recipe
        words = [*script.words, *_said_to_megatron(overrides)]
        recipe = {"mlm": script.name, "source": str(script.source) if script.source else None, "words": words}
        overrides = ()
    else:
        recipe = {"path": f"{RECIPE}/{inputs.recipe.path.name}", "function": inputs.recipe.function}
    request: JobRequest = {
        "version": 1,
        "recipe": recipe,
        "arguments": inputs.arguments,
        "overrides": [to_record(override) for override in overrides],
        "options": {
            "device": inputs.cluster.device,
            "load": inputs.request.allow_checkpoint_load,
            "init": inputs.request.init,
            "profiler": profiler.job_options() if profiler else None,
            "user_env": sorted(entry.partition("=")[0] for entry in inputs.request.env),
            "network": network.network_options(inputs.cluster, layout),
            "numa_binding": inputs.cluster.numa_binding,
            "verify": inputs.request.verify,
            "keep_going": retry.plan_retry(inputs),
            "hang_limits": hang_limits(inputs.request, inputs.cluster),
            "telemetry_s": inputs.cluster.telemetry_s,
        },
    }
    if inputs.request.probe:
        request["options"]["probe"] = True
    if inputs.request.notify or inputs.request.notify_url:
        request["options"]["notify"] = {
            "command": shlex.split(inputs.request.notify or ""),
            "url_variable": inputs.request.notify_url,
        }
    if inputs.mcore is not None:
        request["options"]["mcore"] = str(inputs.mcore.path)
    return request
