"""`make_plan`: everything is decided here and nowhere else, from values alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.errors import SpecError
from launcher.facts.recipe import BridgeRecipe, Recipe
from launcher.facts.world import World
from launcher.plan import container, directives, environment, geometry, profiling
from launcher.plan.model import Geometry, Mode, Mount, Plan, Profiler, Step, Variable
from launcher.plan.overrides import Override, known_values
from launcher.spec.cluster import Cluster
from launcher.spec.request import Request

_WAIT_S = 60
"""How long the other tasks may go on after the first has ended, before Slurm ends the step (srun --wait)."""


@dataclass(frozen=True)
class Given:
    """Everything that a plan is made from."""

    request: Request
    cluster: Cluster
    world: World
    mode: Mode
    recipe: Recipe
    arguments: dict[str, str]
    overrides: tuple[Override, ...]
    code: tuple[tuple[str, str], ...]
    submission: int = 0
    run_dir: str | None = None
    """Of a resumed run; a new one gets its own."""
    recipe_env: Mapping[str, str] | None = None
    """The recipe's env_vars, where it was run to check the configuration. Set by step.sh, they spare each rank the
    second start that it would need to make them count."""


def make_plan(given: Given) -> Plan:
    """Decide the run. Raises a RequestError of the kind that fits for whatever cannot work."""
    request, cluster, world = given.request, given.cluster, given.world
    values = known_values(given.overrides)
    shape = _geometry(given, values)
    profiler = profiling.decide(values, world_size=shape.world_size) if request.nsys else None
    variables = environment.decide(
        cluster=cluster.name,
        profile=cluster.env,
        host=cluster.host_env,
        inherit=cluster.inherit,
        recipe=given.recipe_env or {},
        user=request.env,
        shell=world.environ,
    )
    name = request.name or _name_of(given.recipe)
    run_dir = given.run_dir or _run_dir(given, name)
    runtime = request.runtime or cluster.runtime
    image = _image(given, runtime)
    mounts = _mounts(given, runtime)
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
        image=image,
        python=cluster.python or ("python3" if image else world.python),
        geometry=shape,
        overrides=texts,
        environment=variables,
        mounts=mounts if image else (),
        profiler=profiler,
        directives=_directives(given, shape, variables, name, run_dir),
        step=_step(given, shape, variables, profiler, image, mounts, run_dir),
        argv=_argv(given, texts, profiler),
        code=given.code,
        request=request.model_dump(mode="json", exclude_defaults=True, exclude={"resume"}),
        unchecked=_unchecked(given, values),
        warnings=_warnings(given, shape, variables),
    )


def _override_texts(given: Given, profiler: Profiler | None) -> tuple[str, ...]:
    """The user's, after those that --nsys adds."""
    added = profiling.overrides(profiler, [override.key for override in given.overrides]) if profiler else ()
    return (*added, *(override.text for override in given.overrides))


def _geometry(given: Given, values: dict[str, Any]) -> Geometry:
    sizes = {short: values[key] for short, key in geometry.PARALLEL_KEYS.items() if isinstance(values.get(key), int)}
    local = given.mode == "local"
    return geometry.decide(
        nodes=given.request.nodes,
        gpus_per_node=given.request.gpus_per_node,
        profile_gpus_per_node=given.cluster.gpus_per_node,
        # A batch job gets an allocation of its own, whatever this shell is in.
        allocation=given.world.allocation if given.mode == "srun" else None,
        machine_gpus=None if not local else 0 if given.cluster.device == "cpu" else given.world.gpus,
        sizes=sizes,
    )


def _name_of(recipe: Recipe) -> str:
    """A run's name from its recipe's: what cannot stand in a name becomes `-`."""
    text = recipe.name if isinstance(recipe, BridgeRecipe) else recipe.path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("-._")[:64] or "run"


def run_root(request: Request, cluster: Cluster, world: World) -> Path:
    """The directory of all runs; `~` and `$NAME` by the submitting shell's values: the plan says what it means."""
    root = request.run_root or cluster.run_root or "runs"
    environ = world.environ
    expanded = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda match: environ.get(match[1] or match[2], match[0]), root)
    if expanded.startswith("~"):
        expanded = environ.get("HOME", "~") + expanded[1:]
    return world.directory / expanded


def _run_dir(given: Given, name: str) -> str:
    path = str(run_root(given.request, given.cluster, given.world) / name / given.world.run_id)
    wrong = sorted({sign for sign in path if ord(sign) < 32 or ord(sign) == 127 or sign in "%\\"})
    if wrong:
        raise SpecError(
            f"the run directory {path!r} holds {', '.join(map(repr, wrong))}, which Slurm reads as something else",
            where="--run-root",
        )
    return path


def _image(given: Given, runtime: str) -> str | None:
    request = given.request
    image = request.image
    if image is None and runtime != "none":
        image = given.cluster.image or request.default_image
    if image is None:
        if runtime != "none":
            raise SpecError(
                f"the runtime {runtime} of the cluster profile {given.cluster.name!r} needs an image",
                hint="Name one: --image /path/to/image.sqsh, or run on the bare nodes: --runtime none.",
            )
        return None
    if runtime == "none":
        raise SpecError(
            f"--image {image} needs a container, but the runtime is none",
            hint="Give --runtime pyxis where the cluster has it, or leave the image out.",
        )
    if given.mode == "local":
        raise SpecError("an image cannot be entered without Slurm's pyxis", hint="Leave --image out.")
    path = Path(image).expanduser()
    # pyxis takes a name without a slash for one of a registry, so only an absolute path may reach it.
    return str(path if path.is_absolute() else given.world.directory / path)


def _mounts(given: Given, runtime: str) -> tuple[Mount, ...]:
    request = given.request
    if runtime == "none" and request.mounts:
        raise SpecError("--mount needs a container, but the runtime is none", hint="Give --runtime pyxis and --image.")
    return container.read_mounts((*given.cluster.mounts, *(request.mounts or request.default_mounts)))


def _step(
    given: Given,
    shape: Geometry,
    variables: tuple[Variable, ...],
    profiler: Profiler | None,
    image: str | None,
    mounts: tuple[Mount, ...],
    run_dir: str,
) -> Step:
    cluster = given.cluster
    names = environment.passed_on(variables)
    wait_s = profiler.finish_timeout_s if profiler else _WAIT_S
    args = [
        f"--nodes={shape.nodes}",
        f"--ntasks={shape.world_size}",
        f"--ntasks-per-node={shape.ranks_per_node}",
        *([f"--mpi={cluster.mpi}"] if cluster.mpi else []),
        # One dead rank ends the step: without it the others wait for it in a collective until a time-out.
        "--kill-on-bad-exit=1",
        f"--wait={wait_s}",
        "--open-mode=append",
        "--input=none",
        *(["--overcommit"] if _too_few_cpus(given, shape) else []),
        *cluster.srun_args,
        *given.request.srun_args,
    ]
    enter: tuple[str, ...] = ()
    if image:
        enter = container.pyxis_args(
            image=image,
            mounts=mounts,
            run_dir=run_dir,
            writable=cluster.container_writable,
            named=environment.beats_image(variables),
        )
    return Step(tuple(args), enter, cluster.cpus_per_task, wait_s, names)


def _too_few_cpus(given: Given, shape: Geometry) -> bool:
    """Whether the allocation has fewer CPUs than ranks on a node: srun would refuse to start them."""
    allocation = given.world.allocation if given.mode == "srun" else None
    return allocation is not None and (allocation.cpus_per_node or shape.ranks_per_node) < shape.ranks_per_node


def _directives(
    given: Given, shape: Geometry, variables: tuple[Variable, ...], name: str, run_dir: str
) -> tuple[tuple[str, str | None], ...]:
    request, cluster = given.request, given.cluster
    own: dict[str, directives.Value] = {
        "job-name": name,
        "output": f"{run_dir}/sbatch.log",
        "open-mode": "append",
        "comment": f"launcher:{Path(run_dir).name}:{given.submission}",
        "nodes": shape.nodes,
        "ntasks-per-node": shape.ranks_per_node,
    }
    optional = {
        "cpus-per-task": cluster.cpus_per_task,
        "time": request.time_limit or cluster.time_limit,
        "partition": request.partition or cluster.partition,
        "account": request.account or cluster.account,
        "qos": request.qos or cluster.qos,
        "nodelist": request.nodelist,
        "exclude": request.exclude,
    }
    own |= {key: value for key, value in optional.items() if value is not None}
    # Only names: the values travel in Slurm's own record of the job's environment.
    own["export"] = ",".join(variable.name for variable in variables if variable.place == "inherited")
    profile = dict(cluster.directives)
    if cluster.device == "cpu":
        # A profile of CPU nodes extends one that asks for GPUs: there are none to ask for.
        profile = {key: value for key, value in profile.items() if key not in ("gpus-per-node", "gres")}
    return directives.decide(own=own, ranks_per_node=shape.ranks_per_node, profile=profile, user=request.sbatch)


def _argv(given: Given, overrides: tuple[str, ...], profiler: Profiler | None) -> dict[str, Any]:
    if isinstance(given.recipe, BridgeRecipe):
        recipe = {"bridge": given.recipe.name}
    else:
        recipe = {"path": f"recipe/{given.recipe.path.name}", "function": given.recipe.function}
    captured = None
    if profiler:
        captured = {
            "name": profiler.name,
            "start": profiler.start,
            "stop": profiler.stop,
            "ranks": list(profiler.ranks),
        }
    return {
        "version": 1,
        "recipe": recipe,
        "arguments": given.arguments,
        "overrides": list(overrides),
        "settings": {
            "device": given.cluster.device,
            "load": given.request.load,
            "profiler": captured,
            "user_env": sorted(entry.partition("=")[0] for entry in given.request.env),
        },
    }


def _unchecked(given: Given, values: dict[str, Any]) -> tuple[str, ...]:
    if given.recipe_env is not None:
        return ()
    stated = [key for key in geometry.PARALLEL_KEYS.values() if key not in values]
    return (*(f"{key}: the recipe decides" for key in stated), "the recipe's env_vars", "the recipe's own values")


def _warnings(given: Given, shape: Geometry, variables: tuple[Variable, ...]) -> tuple[str, ...]:
    found = [
        f"{variable.name}: {variable.origin} beats {', '.join(origin for origin, _ in variable.beaten)}"
        for variable in variables
        if variable.beaten
    ]
    found += [
        f"{name} is set in this shell, and the launcher does not use it: give the option instead"
        for name in sorted(given.world.environ)
        if name.startswith(("SBATCH_", "SRUN_"))
    ]
    if _too_few_cpus(given, shape):
        found.append(
            f"the allocation has fewer CPUs than the {shape.ranks_per_node} ranks of a node, so they share them: "
            f"salloc --exclusive or --ntasks-per-node={shape.ranks_per_node} gives each its own"
        )
    return tuple(found)
