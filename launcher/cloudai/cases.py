"""From a scenario to the runs that it asks for: iterations, the points of its sweeps, and each run's request."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher._util.shell import Shell
from launcher.cloudai import flags, native, nemo_run, sources
from launcher.cloudai.cmd_args import Note
from launcher.cloudai.constraints import violations
from launcher.cloudai.environment import Environment, environment_of
from launcher.cloudai.gates import all_gates
from launcher.cloudai.load import LoadedFiles, ScenarioTest
from launcher.cloudai.models import AGENTS, System, Test, slurm_time_limit
from launcher.cloudai.native import NEMO_RUN
from launcher.cloudai.nodes import choose
from launcher.cloudai.profile import Profile, profile_of
from launcher.cloudai.sources import Checkout, Mode
from launcher.config.request import Request
from launcher.discovery.recipe_index import Index, load_index, versions
from launcher.sweep.points import Axis, Draw, SweepPoint, grid
from launcher.sweep.strategies import Listed, grid_strategy, random_strategy
from launcher.sweep.trials import Strategy

NUM_NODES = "NUM_NODES"
"""The name of num_nodes among the axes of a sweep."""

_MANY = 10_000
"""Points of one test, above which a sweep is refused: CloudAI runs them one after the other."""


@dataclass(frozen=True)
class RunChoices:
    """What a command adds to the files."""

    mode: Mode | None = None
    """How to run; None: as the pinned release says."""
    profile: str | None = None
    """A cluster profile of the launcher that the system's is based on; None for `slurm` with pyxis."""
    entrypoint: Path | None = None
    """A program in place of the launcher's entrypoint.py."""
    check_config: bool | None = None
    hooks: bool = True
    """Whether the scenario's pre_test is run."""
    release: str | None = None
    """The release of Bridge whose recipes are meant; None for the newest with an index."""


@dataclass(frozen=True)
class Case:
    """One run that a scenario asks for."""

    scenario_test: ScenarioTest
    test: Test
    """With one value for each field."""
    iteration: int
    step: int | None
    """Of a sweep, from 1; None outside of sweeps."""
    action: Mapping[str, Any]
    """The values of the sweep's axes."""
    drawn: Mapping[str, Any]
    """The values that the environment drew."""
    refused: tuple[str, ...] = ()
    """Why it cannot be run."""

    @property
    def name(self) -> str:
        """Return its name in the scenario: TEST/ITERATION, or TEST/ITERATION/STEP of a sweep."""
        step = "" if self.step is None else f"/{self.step}"
        return f"{self.scenario_test.entry.id}/{self.iteration}{step}"


@dataclass(frozen=True)
class PlannedCase:
    """A case with what is asked of the launcher for it."""

    case: Case
    mode: Mode
    directory: Path
    """Where its files are: below the scenario's results."""
    request: Request
    environment: Environment
    profile: Profile
    """The cluster profile, whose file the request names."""
    notes: tuple[Note, ...]
    source: Checkout
    nodes: int
    arguments: tuple[str, ...] = ()
    """In exec mode: those of setup_experiment.py."""
    gates: tuple[str, ...] = ()
    """In exec mode: what its job runs before and after the training, each as a request states it."""
    python: Path | None = None
    """In exec mode: the interpreter that runs it."""
    plan_only: bool = False


def is_sweep(test: ScenarioTest) -> bool:
    """Return whether a test has axes, or values that are drawn."""
    return bool(axes_of(test)) or bool(test.test.env_params)


def axes_of(test: ScenarioTest) -> tuple[Axis, ...]:
    """Return the axes of a test's sweep in CloudAI's order: lists of cmd_args, of extra_env_vars, num_nodes."""
    fields = _flattened(test.test.cmd_args.model_dump())
    found = [
        Axis(key, tuple(_plain(value)))
        for key, value in fields
        if isinstance(value, list) and not test.test.is_excluded(key) and key not in test.test.env_params
    ]
    found += [
        Axis(f"extra_env_vars.{name}", tuple(value))
        for name, value in test.test.extra_env_vars.items()
        if isinstance(value, list)
    ]
    if isinstance(test.entry.num_nodes, list):
        found.append(Axis(NUM_NODES, tuple(test.entry.num_nodes)))
    for axis in found:
        if axis.values == ():
            raise ConfigError(f"{axis.key}: is an empty list, and a sweep over it has no points", where=test.where)
    return tuple(found)


def _flattened(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _plain(value: Any) -> Any:
    return tuple(_plain(each) for each in value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


def draws_of(test: ScenarioTest) -> tuple[Draw, ...]:
    """Return the values that the environment draws for each trial."""
    return tuple(
        Draw(name, tuple(_plain(getattr(test.test.cmd_args, name))), tuple(spec.weights) if spec.weights else None)
        for name, spec in test.test.env_params.items()
    )


def check_env_params(test: ScenarioTest) -> None:
    """Raise ConfigError where values are to be drawn and no agent runs that takes them."""
    if not test.test.env_params:
        return
    if not axes_of(test):
        reason = "nothing is swept: add a list to cmd_args, extra_env_vars or num_nodes"
    elif not AGENTS[test.test.agent]:
        others = ", ".join(name for name, varies in AGENTS.items() if varies)
        reason = f"the agent {test.test.agent} does not run where the environment varies; these do: {others}"
    else:
        return
    raise ConfigError(
        f"env_params: {', '.join(test.test.env_params)} would not be drawn: {reason}",
        where=test.locate(("env_params",)),
    )


def strategy_of(test: ScenarioTest) -> Strategy:
    """Return the agent of a test's sweep. Raises ConfigError where its points are too many."""
    axes = axes_of(test)
    number = math.prod(len(axis.choices) for axis in axes)
    if number > _MANY:
        raise ConfigError(f"the sweep has {number} points; at most {_MANY} are taken", where=test.where)
    settings, steps = test.test.settings, test.test.agent_steps
    if test.test.agent == "grid_search":
        return grid_strategy(axes)
    if test.test.agent == "bayesian_optimization":
        from launcher.sweep.file import AgentSpec
        from launcher.sweep.optuna_agent import OptunaAgent

        return OptunaAgent(axes, AgentSpec(), trials=steps, seed=settings.random_seed)
    drawn = random_strategy(axes, steps, settings.random_seed).ask(steps)
    if settings.start_action == "random":
        return Listed(drawn)
    first = next(grid(axes))
    return Listed([first, *(point for point in drawn if point != first)][:steps])


def cases_of(test: ScenarioTest) -> list[Case]:
    """Return the runs of a test in their order. Raises ConfigError for values that the fields do not take.

    Of an agent that chooses by results they are the first ones.
    """
    check_env_params(test)
    if not axes_of(test):
        return [_case(test, iteration, None, {}, {}) for iteration in range(test.entry.iterations)]
    points = strategy_of(test).ask(1 if test.test.agent == "bayesian_optimization" else _MANY)
    return [case_of_trial(test, number, point) for number, point in enumerate(points, 1)]


def case_of_trial(test: ScenarioTest, step: int, point: SweepPoint) -> Case:
    """Return the case of a point that an agent proposes, with what the environment draws for this trial."""
    return case_of_point(test, step, with_draws(test, step, point))


def with_draws(test: ScenarioTest, step: int, point: SweepPoint) -> SweepPoint:
    """Return a point with what the environment draws for this trial."""
    drawn = ((draw.key, draw.of_trial(step, test.test.draw_seed)) for draw in draws_of(test))
    return SweepPoint((*point.values, *drawn))


def case_of_point(test: ScenarioTest, step: int, point: SweepPoint) -> Case:
    """Return the case of a point that holds all its values, the drawn ones, too."""
    values = {key: _listed(value) for key, value in point.values}
    drawn = {key: value for key, value in values.items() if key in test.test.env_params}
    return _case(test, 0, step, {key: value for key, value in values.items() if key not in drawn}, drawn)


def _case(
    test: ScenarioTest, iteration: int, step: int | None, action: Mapping[str, Any], drawn: Mapping[str, Any]
) -> Case:
    resolved = applied(test, {**action, **drawn})
    case = Case(test, resolved, iteration, step, action, drawn)
    found = violations(resolved.cmd_args) if step is not None else []
    return replace(case, refused=tuple(map(str, found)))


def applied(test: ScenarioTest, values: Mapping[str, Any]) -> Test:
    """Return a test with these values of its axes. Raises ConfigError for one that its field does not take."""
    from pydantic import ValidationError

    stated = test.test.model_dump(exclude_unset=not test.by_name)
    stated.pop("env_params", None)
    for key, value in values.items():
        if key == NUM_NODES:
            continue
        table, *path = key.split(".") if key.startswith("extra_env_vars.") else ("cmd_args", *key.split("."))
        if table == "extra_env_vars":
            stated[table] = {**stated[table], ".".join(path): value}
        else:
            _put(stated[table], path, value)
    try:
        return Test.model_validate(stated)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("list[", "function-")))
        raise ConfigError(f"a point of the sweep: {key}: {problem['msg']}", where=test.where) from None


def _put(table: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value


def plan_case(
    case: Case,
    loaded: LoadedFiles,
    root: Path,
    options: RunChoices,
    *,
    shell_environment: Mapping[str, str],
    source: Checkout,
    shell: Shell | None = None,
    directory: Path | None = None,
) -> PlannedCase:
    """Return what is asked of the launcher for a case. `root` is the directory of the scenario's results.

    `directory` is where the case's files are; by default what its name says below `root`. Raises ConfigError with the
    place in the user's files.
    """
    test, system, entry = case.test, loaded.system, case.scenario_test.entry
    mode, warning = sources.mode_of(test.bridge, source, options.mode)
    environment = environment_of(replace(case.scenario_test, test=test), system, shell_environment)
    size = _size(case, system)
    chosen = choose(entry.nodes, entry.exclude_nodes, system, size.nodes, where=case.scenario_test.where, shell=shell)
    profile = profile_of(system, options.profile, environment, container=bool(test.cmd_args.container_image))
    directory = directory or root / case.name
    notes = [
        *([Note("git_repos", warning)] if warning else []),
        *(Note("git_repos", text) for text in source.notes),
        *environment.notes,
        *size.notes,
        *(Note("nodes", text) for text in chosen.notes),
        *profile.notes,
        *_notes_of_test(case, mode),
        *_notes_of_container(test, mode, profile.is_container),
    ]
    gates = all_gates(
        loaded.scenario.pre_test if options.hooks else None,
        loaded.scenario.post_test if options.hooks else None,
        system,
        profile,
        ranks_per_node=size.ranks_per_node,
        vboost=bool(test.cmd_args.enable_vboost) and profile.allow_vboost and mode == "native",
    )
    asked: dict[str, Any] = {}
    arguments: tuple[str, ...] = ()
    if mode == "native":
        translated = _translate(case, _index(options, source, test), size, environment, profile, directory)
        profile = profile.with_retries(translated.retries)
        notes += translated.notes
        if translated.packed and profile.device == "cpu":
            text = "Megatron-Core's attention on the CPU takes no packed samples: the first step will end with an error"
            notes.append(Note("cmd_args.data", text))
        asked = {"recipe": translated.recipe, "assignments": translated.assignments, **translated.options}
        asked["env"] = tuple(f"{name}={value}" for name, value in translated.environment.items())
        asked["gates"] = gates
    else:
        notes += _notes_of_exec(case, system, profile)
        image = profile.image_file(test.cmd_args.container_image) if test.cmd_args.container_image else None
        arguments = tuple(_exec_arguments(case, loaded, environment, source, chosen.names, image))
    if profile.is_container:
        asked |= {"image": test.cmd_args.container_image or None, "mounts": _mounts(test, source, directory)}
    values: dict[str, Any] = {
        "cluster": str(root / "profiles" / profile.file_name),
        "nodes": size.nodes,
        "gpus_per_node": size.ranks_per_node,
        "name": run_name(entry.id),
        "run_root": str(root / "runs"),
        "expand_env": environment.expand,
        "time": slurm_time_limit(entry.time_limit) if entry.time_limit else None,
        "partition": chosen.partition,
        "nodelist": ",".join(chosen.names) or None,
        "exclude": ",".join(chosen.exclude) or None,
        "sbatch": _slurm_options(entry.extra_srun_args),
        "entrypoint": str(options.entrypoint) if options.entrypoint else None,
        "check_config": options.check_config,
        **asked,
        "env": (*environment.entries, *asked.get("env", ())),
    }
    return PlannedCase(
        case=case,
        mode=mode,
        directory=directory,
        request=_request(values, case),
        environment=environment,
        profile=profile,
        notes=tuple(dict.fromkeys(notes)),
        source=source,
        nodes=size.nodes,
        arguments=arguments,
        gates=gates if mode == "exec" else (),
        python=nemo_run.python_of(case.scenario_test, system.install_path) if mode == "exec" else None,
        plan_only=bool(test.cmd_args.dryrun),
    )


def _translate(
    case: Case, index: Index, size: "_Size", environment: Environment, profile: Profile, directory: Path
) -> native.NativeRun:
    """Return what a case asks for in native mode. Raises ConfigError with the place in the user's files."""
    try:
        return native.translate(
            case.test,
            index,
            gpus_per_node=size.gpus_per_node,
            nemo_run=None if profile.is_container else directory,
            wandb="WANDB_API_KEY" in environment.secrets,
            retries=case.scenario_test.wrote("cmd_args", "max_retries"),
            allow_vboost=profile.allow_vboost,
        )
    except ConfigError as error:
        error.where = case.scenario_test.where if error.where == "cmd_args" else error.where
        raise


@dataclass(frozen=True)
class _Size:
    nodes: int
    gpus_per_node: int
    ranks_per_node: int
    notes: tuple[Note, ...]


def _size(case: Case, system: System) -> _Size:
    """Return the nodes that num_gpus needs, and what is said about other numbers in the files."""
    gpus = case.test.cmd_args.num_gpus
    if gpus < 1:
        raise ConfigError(f"cmd_args.num_gpus: {gpus} is not at least 1", where=case.scenario_test.where)
    notes = list[Note]()
    per_node = system.gpus_per_node
    if per_node is None:
        per_node = 8
        notes.append(Note("system.gpus_per_node", "is not stated; 8 are assumed, as Bridge's scripts do", "info"))
    nodes = math.ceil(gpus / per_node)
    ranks = min(gpus, per_node)
    if gpus > per_node and gpus % per_node:
        text = f"{gpus} GPUs do not fill nodes of {per_node}: {nodes} nodes run {nodes * per_node} ranks"
        notes.append(Note("cmd_args.num_gpus", text))
    stated = case.action.get(NUM_NODES, case.scenario_test.entry.num_nodes)
    if isinstance(stated, int) and stated != nodes:
        text = f"is {stated} and has no effect: num_gpus={gpus} at gpus_per_node={per_node} makes {nodes}"
        notes.append(Note("num_nodes", text))
    return _Size(nodes, per_node, ranks, tuple(notes))


def _index(options: RunChoices, source: Checkout, test: Test) -> Index:
    """Return the index of the release whose recipes are meant: the pinned one where it has an index."""
    if options.release is not None:
        return load_index(options.release)
    release = sources.release_of(test.bridge, source)
    if release is not None:
        same = [one for one in versions() if one.startswith(f"{release[0]}.{release[1]}.")]
        if same and release >= sources.NATIVE_SINCE:
            return load_index(same[-1])
    return load_index(None)


def _notes_of_test(case: Case, mode: Mode) -> list[Note]:
    entry, test = case.scenario_test.entry, case.test
    notes = list[Note]()
    for name in ("weight", "sol", "ideal_perf"):
        if name in entry.model_fields_set:
            notes.append(Note(name, "is written into the reports, and changes no run", "info"))
    if not case.scenario_test.wrote("cmd_args", "max_steps") and test.cmd_args.is_stated("max_steps"):
        text = f"is not stated; CloudAI's default of {test.cmd_args.max_steps} counts for tests that are named"
        notes.append(Note("cmd_args.max_steps", text, "info"))
    if not case.scenario_test.wrote("cmd_args", "gpu_type"):
        notes.append(Note("cmd_args.gpu_type", f"is not stated; {test.cmd_args.gpu_type} is assumed"))
    for name in ("dataset_paths", "profiling_ranks", "nsys_trace", "nsys_extra_args"):
        if name in case.action:
            text = (
                f"is a list, and so an axis of the sweep; for one run with all: dse_excluded_args = ['cmd_args.{name}']"
            )
            notes.append(Note(f"cmd_args.{name}", text))
    if case.scenario_test.wrote("nemo_run_repo") and mode == "native":
        notes.append(Note("nemo_run_repo", "has no effect: NeMo-Run starts nothing in native mode", "info"))
    return notes


def _notes_of_container(test: Test, mode: Mode, is_container: bool) -> list[Note]:
    notes = list[Note]()
    if not is_container:
        if test.cmd_args.container_image:
            notes.append(Note("cmd_args.container_image", "has no effect: the profile's runtime enters no container"))
        for repo in test.git_repos:
            if repo.mount_as:
                text = f"mount_as={repo.mount_as} has no effect: the profile's runtime enters no container"
                notes.append(Note("git_repos", text))
        if test.extra_container_mounts:
            notes.append(Note("extra_container_mounts", "have no effect: the profile's runtime enters no container"))
    elif mode == "native" and not test.bridge.mount_as:
        text = f"without mount_as the image's own Megatron Bridge trains, not {test.bridge.url} at {test.bridge.commit}"
        notes.append(Note("git_repos", text))
    return notes


def _notes_of_exec(case: Case, system: System, profile: Profile) -> list[Note]:
    """Return what is said about fields that have no effect in exec mode, or are unknown, and about what is missing."""
    found = [
        Note(f"cmd_args.{name}", f"has no effect: {reason}")
        for name, reason in flags.without_effect(case.test.cmd_args)
        if case.scenario_test.wrote("cmd_args", name)
    ]
    for name, near in case.test.cmd_args.unknown.items():
        more = f"; did you mean {near}?" if near else ""
        found.append(Note(f"cmd_args.{name}", f"is not a field, and has no effect{more}"))
    if case.test.cmd_args.enable_vboost and not profile.allow_vboost:
        text = "the cluster profile does not state `allow_vboost = true`, and setup_experiment.py is asked for it"
        found.append(Note("cmd_args.enable_vboost", text))
    if not system.account:
        text = "is not stated: NeMo-Run makes the job's name from it, and ends with an error without one"
        found.append(Note("system.account", text))
    return found


def _mounts(test: Test, source: Checkout, directory: Path) -> tuple[str, ...]:
    """Return the mounts of the containers: the file's own, the clone, and the case's directory as /nemo_run."""
    own = [mount.strip() for mount in test.extra_container_mounts if mount.strip()]
    return (*own, *([source.mount] if source.mount else []), f"{directory}:{NEMO_RUN}")


def _slurm_options(text: str | None) -> dict[str, bool | int | str] | None:
    found: dict[str, bool | int | str] = {}
    for parameter in flags.slurm_parameters([text]):
        key, given, value = parameter.partition("=")
        found[key] = value if given else True
    return found or None


def _exec_arguments(
    case: Case,
    loaded: LoadedFiles,
    environment: Environment,
    source: Checkout,
    names: Sequence[str],
    image: str | None,
) -> list[str]:
    entry = case.scenario_test.entry
    placed = flags.launch_settings(
        case.test,
        loaded.system,
        time_limit=slurm_time_limit(entry.time_limit) if entry.time_limit else None,
        image=image,
        bridge=str(source.path),
        environment=environment.values,
        nodelist=names,
        exclude=entry.exclude_nodes,
        extra_srun_args=entry.extra_srun_args,
    )
    return flags.arguments(case.test, placed)


def _request(values: Mapping[str, Any], case: Case) -> Request:
    from launcher.config.load import parse

    stated = {name: value for name, value in values.items() if value not in (None, (), {})}
    try:
        return parse(Request, stated, where=None)
    except ConfigError as error:
        error.where = case.scenario_test.where
        raise


def run_name(text: str) -> str:
    """Return the name of a test's runs: its id, with `-` in place of what a run's name cannot have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64]
    return name if re.match(r"[A-Za-z0-9]", name) else f"t{name}"
