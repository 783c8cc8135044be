"""From a request to all that its plan is made from: ask the host once, layer the request, read what it names."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import (
    ConfigError,
    OverrideError,
    PrerequisiteError,
    RecipeError,
    RequestError,
    SlurmError,
)
from launcher._util.user_paths import exists, user_path
from launcher.api.profiler_context import find_profiler_context, own_code
from launcher.config.cluster import Cluster
from launcher.config.load import add_job_file, load_cluster, load_request, read_job_file
from launcher.config.request import Request
from launcher.contract import disk_space
from launcher.contract.frozen import dataclass
from launcher.contract.values import Override
from launcher.discovery.bridge_release import BridgeRelease, find_bridge_release
from launcher.discovery.code_files import code_digest, code_files
from launcher.discovery.container_runtime import RuntimeChoice, choose_runtime
from launcher.discovery.host import HostContext, detect_host
from launcher.discovery.image import Image, resolve_image
from launcher.discovery.megatron_core import find_core
from launcher.discovery.recipe import MLM, BridgeRecipe, MegatronScript, Recipe, RecipeFile, read_recipe
from launcher.discovery.recipe_index import IndexMatch, lookup, lookup_file, with_index_info
from launcher.discovery.shipped_code import ShippedCode, shipped_code
from launcher.discovery.training_files import (
    INPUT_KEYS,
    SavedModel,
    TrainingFiles,
    check_training_files,
    saved_model,
)
from launcher.planning import arguments, assignments, backend_choice, container, index_info, overrides, run_paths
from launcher.planning.backend import BackendTraits
from launcher.planning.inputs import FromArguments, PlanInputs
from launcher.planning.layout import choose_hosts
from launcher.planning.option_effects import refuse_without_effect, warnings_without_effect
from launcher.planning.profiler import plan as profiler_plan
from launcher.planning.profiler.model import ProfilerContext
from launcher.planning.task import with_scaled_batch
from launcher.rundir import RunDirectory
from launcher.slurm.allocation import Allocation, read_allocation
from launcher.slurm.nodes import NodeKind, node_kinds

Intent = Literal["run", "submit", "plan"]
"""The command that a plan is for; `plan` is for run where run is possible, else for submit."""


@dataclass(frozen=True)
class Discovered:
    """What a plan is made from, with what only those need who carry it out."""

    inputs: PlanInputs
    resumed: RunDirectory | None
    release: BridgeRelease
    """The release of Megatron Bridge that the job will find."""
    behind: bool = False
    """Whether the resumed run has a job that waits or runs, behind which another one is to be queued."""


@dataclass(frozen=True)
class RunContext:
    """What a request depends on besides its assignments and variables: looked at once, also for many requests."""

    asked: Request
    layered: "_Layered"
    request: Request
    """With its defaults."""
    host: HostContext
    cluster: Cluster
    backend: BackendTraits
    runtime: RuntimeChoice
    allocation: Allocation | None
    hosts: tuple[str, ...]
    node_kinds: tuple[NodeKind, ...]
    recipe: Recipe
    shipped: ShippedCode
    code: tuple[tuple[str, str], ...]
    digest: str
    """Of the files of `code` that are the user's own."""
    image: Image | None
    release: BridgeRelease
    match: IndexMatch | None
    profiling: ProfilerContext

    def with_values(self, asked: Request) -> "RunContext":
        """Return the context of a request that has other assignments and variables and is the same otherwise."""
        given = {key: value for key, value in asked.stated().items() if key in OF_VALUES}
        job = {key: value for key, value in self.layered.job.items() if key in OF_VALUES}
        joined = add_job_file(given, job)
        update = {key: tuple(joined.get(key, ())) for key in OF_VALUES}
        return dataclasses.replace(self, asked=asked, request=self.request.model_copy(update=update))


OF_VALUES = ("assignments", "env")
"""What of a request decides nothing about its context."""


def discover(asked: Request, intent: Intent) -> Discovered:
    """Look at all that the request depends on. Raises a RequestError of the kind that fits."""
    return discover_in(discover_context(asked, intent))


def discover_context(asked: Request, intent: Intent) -> RunContext:
    """Look at the machine, the cluster, the recipe and the image of a request. Raises a RequestError that fits."""
    host = detect_host()
    layered = _layer(asked, host)
    request, resumed = layered.request, layered.resumed
    request = _with_notification(_with_python(request, host), host)
    named = required_recipe(request, intent)
    if request.check_on is not None and request.check_config is False:
        text = "it says where the check runs, and --no-check-config leaves the check out"
        raise ConfigError(text, where="--check-on", hint="Leave one of them out.")
    cluster = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
    cluster = cluster.model_copy(update={"python": request.python or cluster.python})
    backend = _mode(intent, cluster, host)
    refuse_without_effect(asked.stated(), backend.name)
    allocation = _ask_allocation(backend, host)
    request, hosts = _chosen_hosts(request, {*asked.stated(), *layered.of_job_file}, allocation)
    runtime = _runtime(request, cluster, backend, host, resumed)
    cluster = cluster.model_copy(update={"runtime": runtime.name})
    own_copy = resumed.path if resumed else None
    recipe, shipped, code = recipe_and_code(named, request, host, own_copy)
    wanted = container.wanted_image(request, cluster, backend)
    image = _look_at(wanted, cluster, host) if wanted else None
    release = find_bridge_release(image.packages if image else None, cluster.python, in_image=image is not None)
    match = _match(recipe, request, release)
    recipe = with_index_info(recipe, match) if isinstance(recipe, BridgeRecipe) else recipe
    if isinstance(recipe, MegatronScript):
        _check_megatron(request)
    profiling = find_profiler_context(
        profiler_plan.options_from(request), backend=backend, cluster=cluster, host=host, image=image, resumed=resumed
    )
    code = tuple(sorted((*code, *own_code(profiling))))
    return RunContext(
        asked=asked,
        layered=layered,
        request=request,
        host=host,
        cluster=cluster,
        backend=backend,
        runtime=runtime,
        allocation=allocation,
        hosts=hosts,
        node_kinds=_ask_node_kinds(request, cluster, backend),
        recipe=recipe,
        shipped=shipped,
        code=code,
        digest=code_digest(code, own_entrypoint=request.entrypoint is not None),
        image=image,
        release=release,
        match=match,
        profiling=profiling,
    )


def discover_in(context: RunContext) -> Discovered:
    """Return what a plan is made from in this context. Raises a RequestError of the kind that fits."""
    request, recipe, host, match = context.request, context.recipe, context.host, context.match
    resumed, cluster, release = context.layered.resumed, context.cluster, context.release
    absolute = assignments.make_paths_absolute(request.assignments, recipe, host.directory)
    request = request.model_copy(update={"assignments": absolute})
    own_program = request.entrypoint is None
    stated, texts = assignments.split_arguments_and_overrides(absolute, recipe, common=own_program)
    parsed, use_viztracer = profiler_plan.extract_viztracer_key(overrides.parse_all(texts))
    # A program of another kind has keys of its own.
    schema = overrides.schema_of(release.version) if own_program else None
    renamed: tuple[str, ...] = ()
    if schema is not None:
        parsed, renamed = overrides.translated(parsed, schema)
        _check_overrides(parsed, schema, recipe)
    keywords = arguments.check(stated, recipe, match, schema) if stated and own_program else {}
    files = _named_files(stated, parsed, request, recipe, match, host)
    files = dataclasses.replace(
        files,
        loads=_checkpoint_to_load(request, parsed, resumed),
        forbidden=_forbidden_checkpoint(request, parsed) if resumed is None and own_program else None,
    )
    inputs = PlanInputs(
        request=request,
        cluster=cluster,
        host=host,
        backend=context.backend,
        recipe=recipe,
        arguments=stated,
        overrides=parsed,
        code=context.code,
        code_digest=context.digest,
        shipped=context.shipped,
        bridge=release.version if own_program else None,
        accumulation_kernel=release.accumulation_kernel if own_program else None,
        knowledge=_megatron_knowledge(recipe, files)
        if isinstance(recipe, MegatronScript)
        else index_info.knowledge_of(match, parsed, stated, arguments.sizes(keywords, parsed), files),
        mcore=find_core(request.mcore, host.directory, host.environ) if request.mcore else None,
        submission=len(resumed.attempts()) if resumed else 0,
        run_dir=str(resumed.path) if resumed else None,
        recipe_text=resumed.plan["recipe"] if resumed else None,
        previous=resumed.plan if resumed else None,
        runtime=context.runtime,
        image=context.image,
        save_s=_longest_save_s(resumed) if resumed else None,
        profiling=context.profiling,
        use_viztracer=use_viztracer,
        space=_space(request, parsed, cluster, host, resumed),
        allocation=context.allocation,
        hosts=context.hosts,
        renamed=renamed,
        added_keys=overrides.added_keys(parsed, schema) if schema else (),
        node_kinds=context.node_kinds,
        without_effect=warnings_without_effect(context.layered.of_job_file, context.backend),
    )
    return Discovered(with_scaled_batch(inputs), resumed, release, context.layered.behind)


def _check_megatron(request: Request) -> None:
    """Refuse what Megatron-LM's scripts do not take. Raises RequestError."""
    if request.assignments:
        raise OverrideError(
            "Megatron-LM takes no overrides",
            where=request.assignments[0],
            hint="Its arguments stand behind --; `launcher translate --to mlm` makes arguments of overrides.",
        )
    if request.profiler:
        raise RequestError("works in Megatron Bridge's training loop; Megatron-LM has --nsys", where="--profiler")
    if request.check_config or request.check_on:
        option = "--check-config" if request.check_config else "--check-on"
        raise RequestError("checks a recipe, and Megatron-LM's arguments are checked when it starts", where=option)
    if request.init or request.scale_batch:
        option = "--init" if request.init else "--scale-batch"
        raise RequestError("is for recipes of Megatron Bridge", where=option)


def _megatron_knowledge(script: MegatronScript, files: TrainingFiles) -> FromArguments:
    from launcher.translation.translate import values_of

    return FromArguments(values_of(script.words), files)


def required_recipe(request: Request, intent: Intent) -> str:
    """Return the recipe as the request names it. Raises RecipeError where it names none."""
    if request.recipe is None:
        command = "run" if intent == "plan" else intent
        raise RecipeError("no recipe was given", hint=f"Such as: launcher {command} recipes/vanilla_gpt_pretrain.py")
    return request.recipe


def recipe_and_code(
    named: str, request: Request, host: HostContext, run: Path | None = None
) -> tuple[Recipe, ShippedCode, tuple[tuple[str, str], ...]]:
    """Return the recipe of this name, what of the user's travels with it, and the files of code/ with their sources.

    `run` is the directory of a resumed run: of the copy of a recipe in it all files belong to the recipe. Raises
    RecipeError.
    """
    if named.startswith(MLM):
        from launcher.discovery.megatron_lm import read_megatron_script

        script = read_megatron_script(named, request.mlm_source, request.mlm_arguments, host.directory, host.environ)
        shipped = shipped_code(script, request.ship, host.directory)
        return script, shipped, code_files(shipped, request.entrypoint, host.directory)
    if request.mlm_arguments or request.mlm_source:
        option = "--" if request.mlm_arguments else "--mlm-source"
        raise RecipeError(
            f"{named} is a recipe of Megatron Bridge, and takes no arguments of Megatron-LM",
            where=option,
            hint="`launcher translate --to bridge -- ARGUMENTS` makes overrides of them; mlm:gpt runs Megatron-LM.",
        )
    recipe = read_recipe(named, host.directory)
    copied = run is not None and isinstance(recipe, RecipeFile) and recipe.path.is_relative_to(run)
    shipped = shipped_code(recipe, () if copied else request.ship, host.directory, whole=copied)
    return recipe, shipped, code_files(shipped, request.entrypoint, host.directory)


def add_job(asked: Request, host: HostContext) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the request states, and what the job file states that it may name. Raises RequestError."""
    stated = asked.stated()
    if not str(stated.get("recipe", "")).endswith(".toml"):
        return stated, {}
    job_file = user_path(stated.pop("recipe"), host.directory, error=RecipeError)
    if not exists(job_file):
        raise RecipeError(f"there is no job file {str(job_file)!r}")
    return stated, read_job_file(job_file)


def _longest_save_s(run: RunDirectory) -> float | None:
    from launcher.discovery.saves import longest_save_s

    return longest_save_s(attempt.timeline for attempt in run.attempts())


@dataclass(frozen=True)
class _Layered:
    request: Request
    """With its defaults."""
    resumed: RunDirectory | None
    """The run that it continues."""
    behind: bool
    """Whether that run is still alive."""
    of_job_file: tuple[str, ...]
    """Keys that only the job file states."""
    job: Mapping[str, Any]
    """What the job file states; empty for a run that is continued, whose request has it already."""


def _layer(asked: Request, host: HostContext) -> _Layered:
    stated, job = add_job(asked, host)
    resumed, behind = None, False
    of_job_file = tuple(key for key in job if key not in stated)
    if "resume" in stated or "resume" in job:
        from launcher.api.resume import continued_request, find_resumed

        both = add_job_file(stated, job)
        resumed, behind = find_resumed(both)
        stated, job = continued_request(resumed, both), {}
    request = load_request(stated, environ=host.environ, directory=host.directory, job=job)
    return _Layered(request, resumed, behind, of_job_file, job)


def _ask_allocation(backend: BackendTraits, host: HostContext) -> Allocation | None:
    """Return what this shell's allocation has, for a run inside it."""
    if not backend.current_allocation or host.job is None:
        return None
    from launcher._util.shell import LocalShell

    return read_allocation(host.job.job_id, LocalShell())


def _ask_node_kinds(request: Request, cluster: Cluster, backend: BackendTraits) -> tuple[NodeKind, ...]:
    """Return the kinds of nodes that a batch job may get; empty where nothing depends on them, or Slurm is silent."""
    if not backend.own_job or cluster.device == "cpu":
        return ()
    from launcher._util.shell import LocalShell

    named = request.sbatch.get(
        "partition", request.partition or cluster.partition or cluster.directives.get("partition")
    )
    try:
        return node_kinds(str(named) if named else None, LocalShell())
    except SlurmError:
        return ()  # sbatch will say more


def _chosen_hosts(request: Request, stated: set[str], allocation: Allocation | None) -> tuple[Request, tuple[str, ...]]:
    """Return the nodes of this shell's allocation that nodelist and exclude choose, and the request with their number.

    Both are only of one allocation: those of the run that is continued do not count here. Raises RequestError.
    """
    if allocation is None:
        return request, ()
    update = {key: None for key in ("nodelist", "exclude") if key not in stated}
    request = request.model_copy(update=update)
    if request.nodelist is None and request.exclude is None:
        return request, ()
    from launcher._util.shell import LocalShell
    from launcher.slurm.control import hostnames

    shell = LocalShell()
    allocated = [node.name for node in allocation.nodes]
    listed = hostnames(request.nodelist, shell) if request.nodelist else ()
    excluded = hostnames(request.exclude, shell) if request.exclude else ()
    hosts = choose_hosts(allocated, listed, excluded, request.nodes if "nodes" in stated else None)
    return request.model_copy(update={"nodes": len(hosts)}), hosts


def _mode(intent: Intent, cluster: Cluster, host: HostContext) -> BackendTraits:
    if intent != "plan":
        return backend_choice.choose_backend(intent, cluster, host)
    try:
        return backend_choice.choose_backend("run", cluster, host)
    except PrerequisiteError as error:
        try:
            return backend_choice.choose_backend("submit", cluster, host)
        except PrerequisiteError:
            raise error from None


def _runtime(
    request: Request, cluster: Cluster, backend: BackendTraits, host: HostContext, resumed: RunDirectory | None
) -> RuntimeChoice:
    earlier = str(resumed.plan["runtime"]) if resumed else None
    from launcher._util.shell import LocalShell

    return choose_runtime(request, cluster, host, LocalShell(), srun=backend.slurm_step, earlier=earlier)


def _look_at(text: str, cluster: Cluster, host: HostContext) -> Image:
    from launcher._util.shell import LocalShell

    return resolve_image(text, cluster=cluster, host=host, shell=LocalShell())


def _with_python(request: Request, host: HostContext) -> Request:
    """Return the request with the interpreter that it names: a path is relative to this directory."""
    if request.python is None or "/" not in request.python:
        return request
    # Not resolved: a virtual environment's python is a link, and finds its packages by where the link lies.
    return request.model_copy(update={"python": str(user_path(request.python, host.directory, where="--python"))})


def _with_notification(request: Request, host: HostContext) -> Request:
    """Return the request with the variable of --notify-url passed on. Raises ConfigError where it is not set."""
    import shlex

    if request.notify is not None:
        try:
            empty = not shlex.split(request.notify)
        except ValueError as error:
            raise ConfigError(f"cannot be split into words: {error}", where="--notify") from None
        if empty:
            raise ConfigError("names no program", where="--notify")
    name = request.notify_url
    if name is None:
        return request
    given = [entry for entry in request.env if entry.partition("=")[0] == name]
    if any("=" in entry for entry in given):
        raise ConfigError(
            f"--env {name}=... would write the URL into the plan of the run",
            where="--notify-url",
            hint=f"Leave it out, and set the variable in your shell: export {name}=https://...",
        )
    if not host.environ.get(name):
        raise ConfigError(
            f"the variable {name} is not set in this shell",
            where="--notify-url",
            hint=f"Such as: export {name}=https://...",
        )
    return request if given else request.model_copy(update={"env": (*request.env, name)})


def _match(recipe: Recipe, request: Request, release: BridgeRelease) -> IndexMatch | None:
    """Return what the index has of a Bridge recipe, or of a file that the launcher ships, for the job's release."""
    if request.entrypoint is not None or isinstance(recipe, MegatronScript):
        return None
    if isinstance(recipe, BridgeRecipe):
        return lookup(recipe.name, release.version)
    return lookup_file(recipe, release.version)


def _named_files(
    stated: Mapping[str, str],
    changes: tuple[Override, ...],
    request: Request,
    recipe: Recipe,
    match: IndexMatch | None,
    host: HostContext,
) -> TrainingFiles:
    """Return what exists of the files that arguments, overrides and the index name.

    A checked configuration names more.
    """
    if request.entrypoint is not None:
        return TrainingFiles()
    known = overrides.known_values(changes)
    named: dict[str, Any] = {key: value for key, value in known.items() if key in INPUT_KEYS}
    if not {"tokenizer", "hf_path"} & set(stated) and not any(key.startswith("tokenizer") for key in known):
        named |= index_info.tokenizer(match)
    return check_training_files({**named, **arguments.files(stated, recipe)}, host.environ)


def _forbidden_checkpoint(request: Request, changes: tuple[Override, ...]) -> str | None:
    """Return what checkpoint.load names of which the ranks of a new run would refuse to load."""
    named = overrides.known_values(changes).get("checkpoint.load")
    if request.allow_checkpoint_load or not isinstance(named, str):
        return None
    from launcher.contract.checkpoints import holds_checkpoint  # few plans need it

    return named if "://" in named or holds_checkpoint(Path(named)) else None


def _checkpoint_to_load(
    request: Request, stated: tuple[Override, ...], resumed: RunDirectory | None
) -> SavedModel | None:
    """Return the checkpoint that the run is to begin from: its own, or one that the user names.

    The recipe's own checkpoint.load is a directory of Bridge's, which the run never uses.
    """
    named = overrides.known_values(stated).get("checkpoint.load")
    if isinstance(named, str):
        return saved_model(Path(named)) if request.allow_checkpoint_load or resumed else None
    found = saved_model(resumed.checkpoints) if resumed else None
    return dataclasses.replace(found, own=True) if found else None


def _space(
    request: Request,
    stated: tuple[Override, ...],
    cluster: Cluster,
    host: HostContext,
    resumed: RunDirectory | None,
) -> disk_space.DiskSpace | None:
    """Return the space where the run's checkpoints go; None where it saves none, or that is not seen here."""
    named = overrides.known_values(stated).get("checkpoint.save", "")
    if named == "":
        return disk_space.look(resumed.checkpoints if resumed else run_paths.run_root(request, cluster, host))
    return disk_space.look(Path(named)) if isinstance(named, str) and named.startswith("/") else None


def _check_overrides(parsed: tuple[Override, ...], schema: overrides.Schema, recipe: Recipe) -> None:
    try:
        overrides.check_keys(parsed, schema)
    except OverrideError as error:
        if recipe.parameters and not error.hint:
            error.hint = f"The recipe itself takes: {', '.join(recipe.parameters)}."
        raise
