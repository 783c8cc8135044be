"""From the command line to a plan: look at the world once, layer the request, decide."""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.cli.finding import find
from launcher.cli.options import request_options
from launcher.cli.profiling import own_code, place_of
from launcher.errors import OverrideError, RecipeError, RequestError
from launcher.facts.bridge_index import Indexed, installed_version, look_up
from launcher.facts.code import code_files
from launcher.facts.files import require_sources
from launcher.facts.image import Image, look_at_image
from launcher.facts.recipe import BridgeRecipe, Recipe, RecipeFile, read_recipe
from launcher.facts.training_files import TrainingFiles, look_at_files
from launcher.facts.world import World, look
from launcher.plan import container, indexed, make, overrides, place, preflight, profiling, settings
from launcher.plan.capture import OPTIONS
from launcher.plan.model import Plan
from launcher.record import RunDirectory
from launcher.spec.cluster import Cluster
from launcher.spec.load import load_cluster, load_request
from launcher.spec.request import Request

_OF_TRAIN = ("global_batch_size", "micro_batch_size", "train_iters")
"""Of what a check tells, the keys below `train`; the others are the model's."""


@dataclass(frozen=True)
class Planned:
    """A plan with what it was made from, for those who carry it out."""

    plan: Plan
    given: make.Given
    world: World
    request: Request
    resumed: RunDirectory | None


def planned(verb: str, parsed: argparse.Namespace) -> Planned:
    """Make the plan of `run` or `submit`. Raises a RequestError of the kind that fits."""
    world = look()
    options = request_options(parsed)
    resumed = _resumed(options)
    request = _request(options, world, resumed)
    if request.recipe is None:
        raise RecipeError("no recipe was given", hint=f"Such as: launcher {verb} recipes/vanilla_gpt_pretrain.py")
    cluster = load_cluster(request.cluster or place.default_cluster(world), world.environ)
    mode = place.choose_mode(verb, cluster, world)
    recipe = read_recipe(request.recipe, world.directory)
    arguments, texts = settings.split(request.settings, recipe)
    texts, use_viztracer = profiling.take_own_keys(texts)
    wanted = container.wanted_image(request, cluster, mode)
    image = _looked_at(wanted, cluster, world) if wanted else None
    place_of_profiler = place_of(
        profiling.wish_of(request),
        mode=mode,
        cluster=cluster,
        world=world,
        image=image.name if image else None,
        packages=image.packages if image else None,
        fabric=cluster.fabric,
        resumed=resumed,
    )
    checked = _checked_overrides(texts, request, recipe)
    known = _indexed(recipe, request, cluster, image)
    given = make.Given(
        request=request,
        cluster=cluster,
        world=world,
        mode=mode,
        recipe=recipe,
        arguments=arguments,
        overrides=checked,
        code=tuple(sorted((*code_files(recipe, request.entrypoint, world.directory), *own_code(place_of_profiler)))),
        submission=len(resumed.attempts()) if resumed else 0,
        run_dir=str(resumed.path) if resumed else None,
        recipe_env=indexed.env_of(known, checked),
        recipe_values=indexed.values_of(known, checked),
        indexed=known,
        image=image,
        profiling=place_of_profiler,
        use_viztracer=use_viztracer,
    )
    plan = _plan(given, resumed)
    require_sources(mount.source for mount in plan.mounts)
    return Planned(plan, given, world, request, resumed)


def _looked_at(text: str, cluster: Cluster, world: World) -> Image:
    from launcher.shell import LocalShell

    return look_at_image(text, cluster=cluster, world=world, shell=LocalShell())


def _indexed(recipe: Recipe, request: Request, cluster: Cluster, image: Image | None) -> Indexed | None:
    """What is known of a Bridge recipe of the release that the job will find: the image's, or the one beside us."""
    if not isinstance(recipe, BridgeRecipe) or request.entrypoint is not None:
        return None
    if image is not None:
        return look_up(recipe.name, (image.packages or {}).get("megatron-bridge"))
    return look_up(recipe.name, installed_version() if cluster.python is None else None)


def with_recipe(made: Planned, resolved: Mapping[str, Any]) -> Planned:
    """The same plan, made again with what the checked configuration was seen to hold.

    Raises a RequestError where that cannot work here.
    """
    values = {
        f"{'train' if name in _OF_TRAIN else 'model'}.{name}": value
        for name, value in resolved.items()
        if not isinstance(value, dict)
    }
    env_vars = resolved.get("env_vars") or {}
    given = dataclasses.replace(
        made.given,
        recipe_env=env_vars,
        recipe_values=values,
        resolved=resolved,
        indexed=None,
        files=_files(made, resolved),
    )
    return dataclasses.replace(made, plan=_plan(given, made.resumed), given=given)


def _files(made: Planned, resolved: Mapping[str, Any]) -> TrainingFiles:
    stated = overrides.known_values(made.given.overrides)
    job = {variable.name: variable.value for variable in made.plan.environment if variable.value is not None}
    # A checkpoint is loaded only where the user says so: the recipe's own default is a place of Bridge's.
    load = stated.get("checkpoint.load") if made.request.load else None
    environ = {**made.world.environ, **job}
    return look_at_files(preflight.flattened(resolved), environ, load if isinstance(load, str) else None)


def _plan(given: make.Given, resumed: RunDirectory | None) -> Plan:
    plan = make.make_plan(given)
    # Of a resumed run: what the user once wrote, not where its snapshot lies.
    return dataclasses.replace(plan, recipe=resumed.plan["recipe"]) if resumed else plan


def _request(options: dict[str, Any], world: World, resumed: RunDirectory | None) -> Request:
    job_file = None
    if str(options.get("recipe", "")).endswith(".toml"):
        job_file = world.directory / Path(options.pop("recipe")).expanduser()
        if not job_file.is_file():
            raise RecipeError(f"there is no job file {str(job_file)!r}")
    if resumed:
        # What was profiled then need not be profiled again.
        before = {key: value for key, value in resumed.plan["request"].items() if key not in OPTIONS}
        new_settings = options.pop("settings", ())
        options = {**before, **options, "settings": settings.again(before.get("settings", ()), new_settings)}
        _require_code(resumed, options)
    return load_request(options, environ=world.environ, directory=world.directory, job_file=job_file)


def _resumed(options: dict[str, Any]) -> RunDirectory | None:
    name = options.get("resume")
    if name is None:
        return None
    run = find(name, options.get("run_root"))
    _require_resumable(run)
    if "=" in str(options.get("recipe", "")):
        # With --resume the recipe is known: what stands in its place is the first setting.
        options["settings"] = (options.pop("recipe"), *options.get("settings", ()))
    elif "recipe" in options:
        raise RequestError(
            "--resume continues a run with its own recipe, from its own code/",
            where=options["recipe"],
            hint="Leave the recipe out; overrides may follow. For another recipe start a new run with --load.",
        )
    return run


def _require_resumable(run: RunDirectory) -> None:
    """A run can go on once it is over and has saved something; whether that is whole the job judges, shard by shard."""
    from launcher.shell import LocalShell
    from launcher.watch.status import status_of

    status = status_of([run], LocalShell())[0][0]
    if not status.phase.over:
        raise RequestError(
            f"the run is {status.phase.value}: {status.detail}",
            where=str(run.path),
            hint="Wait for its end, or end it: launcher cancel --save.",
        )
    elsewhere = any(
        text.lstrip("+").startswith(("checkpoint.save=", "checkpoint.load=")) for text in run.plan["overrides"]
    )
    if not elsewhere and not any(run.checkpoints.glob("iter_*")):
        raise RequestError(
            "the run has saved no checkpoint, so there is nothing to continue from",
            where=str(run.checkpoints),
            hint="Start it anew, without --resume.",
        )


def _require_code(run: RunDirectory, options: dict[str, Any]) -> None:
    """A resumed run executes the snapshot of its first attempt."""
    recipe = run.plan["argv"]["recipe"]
    if "path" in recipe:
        options["recipe"] = f"{run.code / recipe['path']}:{recipe['function']}"
    if options.get("entrypoint"):
        options["entrypoint"] = str(run.code / "entrypoint.py")


def _checked_overrides(texts: tuple[str, ...], request: Request, recipe: Recipe) -> tuple[Any, ...]:
    if not texts:
        return ()
    # A program of another kind has keys of its own.
    schema = None if request.entrypoint is not None else overrides.load_schema()
    try:
        return overrides.check(texts, schema)
    except OverrideError as error:
        parameters = recipe.parameters if isinstance(recipe, RecipeFile) else ()
        if parameters and not error.hint:
            error.hint = f"The recipe itself takes: {', '.join(parameters)}."
        raise
