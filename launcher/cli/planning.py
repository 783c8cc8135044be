"""From the command line to a plan: look at the world once, layer the request, decide."""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import OverrideError, RecipeError, RequestError
from launcher.cli.arguments import request_options
from launcher.cli.finding import find
from launcher.cli.profiling import own_code, place_of
from launcher.config.cluster import Cluster
from launcher.config.load import load_cluster, load_request
from launcher.config.request import Request
from launcher.discovery.bridge_release import BridgeRelease, find_bridge_release
from launcher.discovery.code_files import code_files
from launcher.discovery.files import require_sources
from launcher.discovery.host import HostContext, detect_host
from launcher.discovery.image import Image, resolve_image
from launcher.discovery.recipe import BridgeRecipe, Recipe, read_recipe
from launcher.discovery.recipe_index import IndexMatch, lookup, with_index_info
from launcher.discovery.training_files import SavedModel, TrainingFiles, check_training_files, saved_model
from launcher.planning import arguments, assignments, container, index_info, make, overrides, place, preflight
from launcher.planning.backend import BackendTraits
from launcher.planning.model import Plan
from launcher.planning.profiler import plan as profiler_plan
from launcher.planning.profiler.model import OPTIONS, ProfilerContext
from launcher.rundir import RunDirectory

_OF_TRAIN = ("global_batch_size", "micro_batch_size", "train_iters")
"""Of what a check tells, the keys below `train`; the others are the model's."""


@dataclass(frozen=True)
class Planned:
    """A plan with what it was made from, for those who carry it out."""

    plan: Plan
    given: make.PlanInputs
    host: HostContext
    request: Request
    resumed: RunDirectory | None
    release: BridgeRelease


def planned(verb: str, parsed: argparse.Namespace) -> Planned:
    """Make the plan of `run` or `submit`. Raises a RequestError of the kind that fits."""
    host = detect_host()
    options = request_options(parsed)
    resumed = _resumed(options)
    request = _with_python(_request(options, host, resumed), host)
    if request.recipe is None:
        raise RecipeError("no recipe was given", hint=f"Such as: launcher {verb} recipes/vanilla_gpt_pretrain.py")
    cluster = load_cluster(request.cluster or place.default_cluster(host), host.environ)
    cluster = cluster.model_copy(update={"python": request.python or cluster.python})
    backend = place.choose_backend(verb, cluster, host)
    recipe = read_recipe(request.recipe, host.directory)
    wanted = container.wanted_image(request, cluster, backend)
    image = _looked_at(wanted, cluster, host) if wanted else None
    release = find_bridge_release(image.packages if image else None, cluster.python, in_image=image is not None)
    known = _indexed(recipe, request, release)
    recipe = with_index_info(recipe, known) if isinstance(recipe, BridgeRecipe) else recipe
    request = request.model_copy(
        update={"assignments": assignments.make_paths_absolute(request.assignments, recipe, host.directory)}
    )
    stated, texts = assignments.split_arguments_and_overrides(
        request.assignments, recipe, common=request.entrypoint is None
    )
    texts, use_viztracer = profiler_plan.extract_viztracer_key(texts)
    place_of_profiler = _place_of_profiler(request, backend, cluster, host, image, resumed)
    # A program of another kind has keys of its own.
    schema = overrides.schema_of(release.version) if request.entrypoint is None else None
    checked = _checked_overrides(texts, schema, recipe)
    of_keywords = _checked_arguments(stated, request, recipe, known, schema)
    given = make.PlanInputs(
        request=request,
        cluster=cluster,
        host=host,
        backend=backend,
        recipe=recipe,
        arguments=stated,
        overrides=checked,
        code=tuple(sorted((*code_files(recipe, request.entrypoint, host.directory), *own_code(place_of_profiler)))),
        submission=len(resumed.attempts()) if resumed else 0,
        run_dir=str(resumed.path) if resumed else None,
        recipe_env=index_info.env_of(known, checked),
        recipe_values={**index_info.values_of(known, checked), **arguments.sizes(of_keywords, checked)},
        index_match=known,
        files=_named_files(stated, request, recipe, host, _to_load(request, checked, resumed)),
        image=image,
        profiling=place_of_profiler,
        use_viztracer=use_viztracer,
    )
    plan = _plan(given, resumed)
    require_sources(mount.source for mount in plan.mounts)
    return Planned(plan, given, host, request, resumed, release)


def _place_of_profiler(
    request: Request,
    backend: BackendTraits,
    cluster: Cluster,
    host: HostContext,
    image: Image | None,
    resumed: RunDirectory | None,
) -> ProfilerContext:
    return place_of(
        profiler_plan.options_from(request),
        backend=backend,
        cluster=cluster,
        host=host,
        image=image.name if image else None,
        packages=image.packages if image else None,
        fabric=cluster.fabric,
        resumed=resumed,
    )


def _looked_at(text: str, cluster: Cluster, host: HostContext) -> Image:
    from launcher._util.shell import LocalShell

    return resolve_image(text, cluster=cluster, host=host, shell=LocalShell())


def _with_python(request: Request, host: HostContext) -> Request:
    """The request with the interpreter that it names: a path is meant from this directory."""
    if request.python is None or "/" not in request.python:
        return request
    # Not resolved: a virtual environment's python is a link, and found by where it lies.
    return request.model_copy(update={"python": str(host.directory / Path(request.python).expanduser())})


def _indexed(recipe: Recipe, request: Request, release: BridgeRelease) -> IndexMatch | None:
    """What is known of a Bridge recipe of the release that the job will find."""
    if not isinstance(recipe, BridgeRecipe) or request.entrypoint is not None:
        return None
    return lookup(recipe.name, release.version)


def _checked_arguments(
    stated: Mapping[str, str],
    request: Request,
    recipe: Recipe,
    known: IndexMatch | None,
    schema: overrides.Schema | None,
) -> dict[str, Any]:
    if not stated or request.entrypoint is not None:
        return {}
    return arguments.check(stated, recipe, known, schema)


def _named_files(
    stated: Mapping[str, str], request: Request, recipe: Recipe, host: HostContext, loads: SavedModel | None
) -> TrainingFiles:
    """What arguments name; a checked configuration names more."""
    named = arguments.files(stated, recipe) if request.entrypoint is None else {}
    return dataclasses.replace(check_training_files(named, host.environ), loads=loads)


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
        index_match=None,
        files=_files(made, resolved),
    )
    return dataclasses.replace(made, plan=_plan(given, made.resumed), given=given)


def _files(made: Planned, resolved: Mapping[str, Any]) -> TrainingFiles:
    job = {variable.name: variable.value for variable in made.plan.environment if variable.value is not None}
    found = check_training_files(preflight.flattened(resolved), {**made.host.environ, **job})
    return dataclasses.replace(found, loads=made.given.files.loads)


def _to_load(
    request: Request, stated: tuple[overrides.Override, ...], resumed: RunDirectory | None
) -> SavedModel | None:
    """The checkpoint that the run is to begin from: its own, or one that the user names.

    The recipe's own checkpoint.load is a place of Bridge's, which the run never uses.
    """
    named = overrides.known_values(stated).get("checkpoint.load")
    if isinstance(named, str):
        return saved_model(Path(named)) if request.load or resumed else None
    found = saved_model(resumed.checkpoints) if resumed else None
    return dataclasses.replace(found, own=True) if found else None


def _plan(given: make.PlanInputs, resumed: RunDirectory | None) -> Plan:
    plan = make.make_plan(given)
    # Of a resumed run: what the user once wrote, not where its snapshot lies.
    return dataclasses.replace(plan, recipe=resumed.plan["recipe"]) if resumed else plan


def _request(options: dict[str, Any], host: HostContext, resumed: RunDirectory | None) -> Request:
    job_file = None
    if str(options.get("recipe", "")).endswith(".toml"):
        job_file = host.directory / Path(options.pop("recipe")).expanduser()
        if not job_file.is_file():
            raise RecipeError(f"there is no job file {str(job_file)!r}")
    if resumed:
        # What was profiled then need not be profiled again.
        before = {key: value for key, value in resumed.plan["request"].items() if key not in OPTIONS}
        new = options.pop("assignments", ())
        options = {**before, **options, "assignments": assignments.merge_for_resume(before.get("assignments", ()), new)}
        _require_code(resumed, options)
    return load_request(options, environ=host.environ, directory=host.directory, job_file=job_file)


def _resumed(options: dict[str, Any]) -> RunDirectory | None:
    name = options.get("resume")
    if name is None:
        return None
    run = find(name, options.get("run_root"))
    _require_resumable(run)
    if "=" in str(options.get("recipe", "")):
        # With --resume the recipe is known: what stands in its place is the first assignment.
        options["assignments"] = (options.pop("recipe"), *options.get("assignments", ()))
    elif "recipe" in options:
        raise RequestError(
            "--resume continues a run with its own recipe, from its own code/",
            where=options["recipe"],
            hint="Leave the recipe out; overrides may follow. For another recipe start a new run with --load.",
        )
    return run


def _require_resumable(run: RunDirectory) -> None:
    """A run can go on once it is over and has saved something; whether that is whole the job judges, shard by shard."""
    from launcher._util.shell import LocalShell
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


def _checked_overrides(
    texts: tuple[str, ...], schema: overrides.Schema | None, recipe: Recipe
) -> tuple[overrides.Override, ...]:
    if not texts:
        return ()
    try:
        return overrides.check(texts, schema)
    except OverrideError as error:
        parameters = recipe.parameters
        if parameters and not error.hint:
            error.hint = f"The recipe itself takes: {', '.join(parameters)}."
        raise
