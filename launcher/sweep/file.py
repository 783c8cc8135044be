"""Sweep files: what varies, how points are chosen, and what all points have in common (docs/how-to/sweeps.md)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from launcher._util.errors import ConfigError
from launcher.config.cluster import Count, Text
from launcher.config.load import located_recipe, parse, read_toml
from launcher.config.model import LARGEST, Model
from launcher.config.request import Request, assignment_key
from launcher.config.texts import plain
from launcher.contract.variables import is_secret, secret_in, secret_of_assignment
from launcher.sweep.executor import Definition
from launcher.sweep.points import Axis, Draw, Range, SweepPoint, Value, plain_value, value_text

OPTIONS = ("nodes", "cluster", "image", "recipe")
"""Options of a run that may be an axis."""

ENV = "env."
"""Beginning of an axis that is an environment variable."""

METRICS: Mapping[str, str] = {
    "step_time_s": "inverse",
    "tflops_per_gpu": "identity",
    "tokens_per_second": "identity",
    "loss": "negative",
    "memory_bytes": "negative",
}
"""What can be compared, each with the reward that it has by default."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Several = Annotated[tuple[Text, ...], Meta(min_length=1)]


class _Table(Model, frozen=True, kw_only=True):
    """A table of a sweep file."""

    text_check: ClassVar[Callable[[str], object]] = plain


class RangeSpec(_Table, frozen=True, kw_only=True):
    """An axis from which a strategy draws any number."""

    low: Number
    high: Number
    log: bool = False
    """Whether orders of magnitude are equally likely."""
    integer: bool = False


class AxesSpec(_Table, frozen=True, kw_only=True):
    """What varies: each axis a list of values, or a range."""

    recipe: Several | None = None
    cluster: Several | None = None
    image: Several | None = None
    nodes: Annotated[tuple[Count, ...], Meta(min_length=1)] | None = None
    env: dict[str, Any] = field(default_factory=dict)
    """Environment variables."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Keys of the configuration, and arguments of the recipe."""


class DrawSpec(_Table, frozen=True, kw_only=True):
    """A value that is drawn for each trial, whatever the strategy proposes."""

    values: tuple[Any, ...]
    weights: tuple[Annotated[float, Meta(ge=0, le=LARGEST)], ...] | None = None
    """The probability of each value; they add up to 1. Without them all values are equally likely."""


class AgentSpec(_Table, frozen=True, kw_only=True):
    """What chooses points one after the other, by the results so far."""

    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    """Optuna's sampler."""
    pruner: Literal["none", "median", "halving", "hyperband"] = "none"
    """Which of Optuna's pruners stops bad points early."""
    min_steps: Count = 10
    """Iterations before a point may be stopped."""
    startup_trials: Count = 10
    """Trials that are drawn at random before the sampler uses results."""


class SweepSpec(_Table, frozen=True, kw_only=True):
    """A sweep file."""

    name: str | None = None
    """The name of the sweep and of its runs; by default the file's name without `.toml`."""
    strategy: Literal["grid", "random", "list", "agent"] = "grid"
    trials: Annotated[Count, Meta(le=1_000_000)] | None = None
    """How many points the strategies random and agent ask for."""
    seed: int = 0
    repeat: Annotated[int, Meta(ge=1, le=100)] | Literal["auto"] = 1
    """Runs of each point; auto: until the spread allows the best point to be named, at most `max_repeats`."""
    max_repeats: Annotated[int, Meta(ge=2, le=100)] = 12
    max_parallel: Count | None = None
    """How many points run at the same time; by default as many as Slurm starts."""
    metric: str = "step_time_s"
    """What is compared: step_time_s, tflops_per_gpu, tokens_per_second, loss or memory_bytes."""
    reward: str | None = None
    """inverse, negative, identity, or `module:function`; by default the smaller time, loss or memory wins."""
    failure_reward: Number | None = None
    """The reward of a run that failed; by default an agent learns only that it failed."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 5
    """Iterations at the beginning of each attempt that are not measured."""
    run: dict[str, Any] = field(default_factory=dict)
    """What all points have in common: the keys of a job file."""
    axes: AxesSpec = AxesSpec()
    draws: dict[str, DrawSpec] = field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = ()
    """For the strategy list: the values of each point by the key of their axis."""
    agent: AgentSpec | None = None


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that was read and checked."""

    path: Path
    spec: SweepSpec
    definition: Definition
    points: tuple[SweepPoint, ...]
    """Of the strategy list; empty for the others."""
    fixed: Mapping[str, Any]
    """What all points have in common, as plain values: a sweep of the same name must have the same."""


def load_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file. Paths of recipes in it are relative to it. Raises ConfigError."""
    spec = parse(SweepSpec, read_toml(path), where=str(path))
    name = spec.name or path.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name: {name!r} is not a name: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit",
            where=str(path),
        )
    base = _base(spec, path, name)
    axes = _axes(spec, path)
    draws = tuple(_draw(key, draw, path) for key, draw in spec.draws.items())
    points = tuple(_listed(spec, path))
    _refuse_secrets(axes, draws, points, path)
    _require_complete(spec, axes, path)
    _refuse_twice(base, [*(axis.key for axis in axes), *(key for point in points for key, _ in point.values)], path)
    _refuse_twice(base, [draw.key for draw in draws], path, [axis.key for axis in axes])
    if spec.metric not in METRICS:
        raise ConfigError(f"metric: {spec.metric!r} is not one of {', '.join(METRICS)}", where=str(path))
    definition = Definition(
        name=name,
        axes=axes,
        request_of=request_builder(base, path),
        draws=draws,
        metrics=(spec.metric,),
        reward=spec.reward or METRICS[spec.metric],
        failure_reward=spec.failure_reward,
        seed=spec.seed,
    )
    return SweepFile(path, spec, definition, points, base)


def request_builder(base: Mapping[str, Any], path: Path) -> Callable[[SweepPoint], Request]:
    """Return the function from a point to its request: the values of `base` with those of the point."""

    def request_of(point: SweepPoint) -> Request:
        stated = dict(base)
        assignments, env = list(base.get("assignments", ())), list(base.get("env", ()))
        for key, value in point.values:
            if key in OPTIONS:
                is_recipe = isinstance(value, str) and key == "recipe"
                stated[key] = located_recipe(str(value), path.parent.absolute()) if is_recipe else value
            elif key.startswith(ENV):
                env.append(f"{key.removeprefix(ENV)}={value_text(value)}")
            else:
                assignments.append(f"{key}={value_text(value)}")
        if assignments:
            stated["assignments"] = tuple(assignments)
        if env:
            stated["env"] = tuple(env)
        return parse(Request, stated, where=f"{path}: point {point.name}")

    return request_of


def _base(spec: SweepSpec, path: Path, name: str) -> dict[str, Any]:
    """Return what all points have in common. Raises ConfigError for what a sweep decides itself."""
    base = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.run.items()}
    parse(Request, base, where=str(path), label=lambda key: ".".join(("run", *key)))
    for key, instead in (("name", "name"), ("resume", None), ("attempts", None)):
        if key in base:
            hint = f"State it as `{instead}` above all tables." if instead else "Leave it out."
            raise ConfigError(f"run.{key}: a sweep does not take it", where=str(path), hint=hint)
    recipe = base.get("recipe")
    if isinstance(recipe, str) and recipe.endswith(".toml"):
        raise ConfigError(
            "run.recipe: a sweep does not take a job file", where=str(path), hint="Copy its keys into [run]."
        )
    if isinstance(recipe, str):
        base["recipe"] = located_recipe(recipe, path.parent.absolute())
    return {**base, "name": name}


def _axes(spec: SweepSpec, path: Path) -> tuple[Axis, ...]:
    """Return the axes: options first, then variables, then overrides, each in the order of the file."""
    found = dict[str, Axis]()
    for key in OPTIONS:
        values = getattr(spec.axes, key)
        if values is not None:
            found[key] = _axis(key, values, f"axes.{key}", path)
    for name, values in spec.axes.env.items():
        found[f"{ENV}{name}"] = _axis(f"{ENV}{name}", values, f"axes.env.{name}", path)
    for key, values in spec.axes.overrides.items():
        if key in OPTIONS or key.startswith(ENV):
            raise ConfigError(
                f"axes.overrides.{key}: this is an option or a variable",
                where=str(path),
                hint="An option is an axis itself, as axes.nodes; a variable belongs to axes.env.",
            )
        found[key] = _axis(key, values, f"axes.overrides.{key}", path)
    return tuple(found.values())


def _axis(key: str, given: object, place: str, path: Path) -> Axis:
    """Return the axis that a list of values or a range describes. Raises ConfigError."""
    if isinstance(given, dict):
        return Axis(key, _range(given, place, path))
    if not isinstance(given, list | tuple) or not given:
        raise ConfigError(
            f"{place}: an axis is a list with at least 1 value, or a range",
            where=str(path),
            hint="Such as [1, 2, 4], or {low = 1e-5, high = 1e-2, log = true}.",
        )
    distinct = dict[str, Value]()
    for each in given:
        value = plain_value(each, key)
        distinct.setdefault(value_text(value), value)
    return Axis(key, tuple(distinct.values()))


def _range(given: Mapping[str, Any], place: str, path: Path) -> Range:
    spec = parse(RangeSpec, given, where=str(path), label=lambda key: ".".join((place, *key)))
    wrong = None
    if not spec.low < spec.high:
        wrong = f"low={spec.low:g} is not below high={spec.high:g}"
    elif spec.log and spec.low <= 0:
        wrong = f"log needs a range above 0, and low={spec.low:g}"
    elif spec.integer and (spec.low != int(spec.low) or spec.high != int(spec.high)):
        wrong = "the bounds of a range of integers are integers"
    if wrong is not None:
        raise ConfigError(f"{place}: {wrong}", where=str(path))
    return Range(spec.low, spec.high, spec.log, spec.integer)


def _draw(key: str, spec: DrawSpec, path: Path) -> Draw:
    wrong = None
    if len(spec.values) < 2:
        wrong = "values: must be a list with at least 2 items"
    elif spec.weights is not None and len(spec.weights) != len(spec.values):
        wrong = f"there are {len(spec.values)} values and {len(spec.weights)} weights"
    elif spec.weights is not None and abs(sum(spec.weights) - 1.0) > 1e-6:
        wrong = f"the weights add up to {sum(spec.weights):g}, not to 1"
    if wrong is not None:
        raise ConfigError(f"draws.{key}.{wrong}", where=str(path))
    return Draw(key, tuple(plain_value(each, key) for each in spec.values), spec.weights)


def _listed(spec: SweepSpec, path: Path) -> list[SweepPoint]:
    if bool(spec.points) != (spec.strategy == "list"):
        text = "points: the strategy list needs them" if not spec.points else "points: only the strategy list has them"
        raise ConfigError(text, where=str(path), hint="Write one table [[points]] for each point, and strategy='list'.")
    return [SweepPoint.of(values) for values in spec.points]


def _require_complete(spec: SweepSpec, axes: tuple[Axis, ...], path: Path) -> None:
    """Raise ConfigError for keys that the strategy needs or that have no effect with it."""
    if spec.strategy == "list" and axes:
        raise ConfigError("axes: the strategy list has points, not axes", where=str(path))
    if spec.strategy != "list" and not axes:
        raise ConfigError("axes: the sweep has none", where=str(path), hint="Such as: [axes] nodes = [1, 2]")
    drawing = spec.strategy in ("random", "agent")
    if drawing and spec.trials is None:
        raise ConfigError(f"trials: the strategy {spec.strategy} needs their number", where=str(path))
    if not drawing and spec.trials is not None:
        raise ConfigError(f"trials: the strategy {spec.strategy} takes all points", where=str(path))
    if spec.agent is not None and spec.strategy != "agent":
        raise ConfigError("agent: only the strategy agent has one", where=str(path))
    if spec.draws and not drawing:
        raise ConfigError(
            "draws: values are drawn only where a strategy draws, and this one takes all points",
            where=str(path),
            hint="Make them axes, or choose strategy = 'random' or 'agent'.",
        )
    if spec.strategy == "grid":
        for axis in axes:
            _ = axis.choices


def _refuse_secrets(
    axes: tuple[Axis, ...], draws: tuple[Draw, ...], points: tuple[SweepPoint, ...], path: Path
) -> None:
    """Raise ConfigError, without the value, for one that looks like a secret: the sweep's records hold all values."""
    listed = [(axis.key, value) for axis in axes if not isinstance(axis.values, Range) for value in axis.values]
    listed += [(draw.key, value) for draw in draws for value in draw.values]
    listed += [pair for point in points for pair in point.values]
    for key, value in listed:
        name = key.removeprefix(ENV)
        text = value_text(value)
        secret = is_secret(name) if key.startswith(ENV) else secret_of_assignment(f"{key}={text}") is not None
        if secret or secret_in(text):
            raise ConfigError(
                f"{key} looks like a secret: its values would be written into the sweep's records",
                where=str(path),
                hint="Set it in your shell and pass it on by name: env = ['NAME'] in [run].",
            )


def _refuse_twice(base: Mapping[str, Any], keys: list[str], path: Path, others: list[str] | None = None) -> None:
    """Raise ConfigError for a key that varies and is stated in [run] as well: one of the values would be lost."""
    fixed = {assignment_key(text) for text in base.get("assignments", ())}
    variables = {f"{ENV}{text.partition('=')[0]}" for text in base.get("env", ())}
    for key in dict.fromkeys(keys):
        if key in (base if key in OPTIONS else variables if key.startswith(ENV) else fixed):
            raise ConfigError(f"{key} varies, and [run] states it as well", where=str(path), hint="Leave one out.")
        if others and key in others:
            raise ConfigError(f"{key} is drawn, and an axis as well", where=str(path), hint="Leave one out.")
