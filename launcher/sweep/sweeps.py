"""What the command `launcher sweep` does: typed functions that neither parse arguments nor print."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import ConfigError, RequestError
from launcher._util.shell import LocalShell
from launcher._util.user_paths import user_path
from launcher.api.plan_many import ManyPlans
from launcher.api.progress import Progress
from launcher.config.load import load_cluster, load_request
from launcher.config.request import Request
from launcher.discovery.host import detect_host
from launcher.planning.backend_choice import default_cluster
from launcher.planning.run_paths import run_root
from launcher.sweep.compare import Ranking
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.driver import DriverSettings, SweepDriver
from launcher.sweep.executor import Definition
from launcher.sweep.file import OPTIONS, AgentSpec, SweepFile, load_sweep
from launcher.sweep.measure import StepWindow
from launcher.sweep.points import Axis, SweepPoint, grid
from launcher.sweep.runs import SlurmRuns
from launcher.sweep.strategies import Listed, grid_strategy, random_strategy
from launcher.sweep.trials import Strategy, Trial

_AGENT_PARALLEL = 4
"""Trials of an agent at the same time, where the file does not say: more would be chosen without results."""


@dataclass(frozen=True)
class Options:
    """What the command line states in place of the file."""

    max_parallel: int | None = None
    repeat: int | Literal["auto"] | None = None


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep that was planned and not started."""

    directory: Path
    points: tuple[SweepPoint, ...]
    refused: dict[str, str]
    """Why points cannot be run, by their name."""
    shapes: int
    """How many shapes of requests were looked at: points of one shape differ in values alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for programs."""
        return {
            "version": 1,
            "directory": str(self.directory),
            "points": [
                {"name": point.name, "values": point.to_dict(), "refused": self.refused.get(point.name)}
                for point in self.points
            ],
            "shapes": self.shapes,
        }


@dataclass(frozen=True)
class SweepStatus:
    """How a sweep is doing."""

    directory: Path
    trials: tuple[Trial, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def over(self) -> bool:
        """Return whether all trials have ended."""
        return all(trial.ended for trial in self.trials)

    @property
    def good(self) -> bool:
        """Return whether nothing has failed that was started."""
        return not any(trial.state in ("failed", "cancelled") for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return the values for programs."""
        return {
            "version": 1,
            "directory": str(self.directory),
            "over": self.over,
            "counts": self.counts,
            "trials": [trial_values(trial) for trial in self.trials],
        }


def trial_values(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain values."""
    return {
        "number": trial.number,
        "point": trial.content.name,
        "values": trial.content.to_dict(),
        "state": trial.state,
        "reason": trial.reason,
        "metrics": dict(trial.metrics),
        "reward": trial.reward,
        "runs": list(trial.runs),
        "repeats": trial.repeats,
    }


def plan_sweep(file: str, progress: Progress) -> PlannedSweep:
    """Expand a sweep file and check every point. Writes nothing and starts nothing. Raises RequestError.

    Of an agent, which chooses by results, only the first points are shown.
    """
    sweep = _load(file)
    directory = SweepDirectory(_root(sweep))
    points = tuple(_strategy(sweep).ask(sweep.spec.trials or _ALL if sweep.spec.strategy != "agent" else 1))
    runs = SlurmRuns(directory, sweep.definition, "000000", progress)
    return PlannedSweep(directory.root, points, runs.refuse(points), runs.shapes)


def submit_sweep(file: str, progress: Progress, options: Options) -> SweepStatus:
    """Submit what a sweep file asks for and was not submitted yet. Raises RequestError, SlurmError, DiskError."""
    sweep = _load(file)
    if sweep.spec.strategy == "agent" or _repeat(sweep, options) == "auto":
        raise ConfigError(
            "this sweep chooses runs by the results of others, so it has to be followed",
            where=file,
            hint="Add --follow. It may be interrupted at any time: the same command goes on.",
        )
    with _driven(sweep, progress, options) as driver:
        driver.submit()
        return SweepStatus(_root(sweep), tuple(driver.trials))


def follow_sweep(
    file: str,
    progress: Progress,
    options: Options,
    *,
    leave: Callable[[], bool],
    tick: Callable[[SweepStatus], None],
) -> tuple[SweepStatus, Ranking]:
    """Drive a sweep until it is over, `leave` says so, or what is left will never start.

    `tick` is called after each look. Raises as `submit_sweep`.
    """
    sweep = _load(file)
    root = _root(sweep)
    with _driven(sweep, progress, options) as driver:
        driver.follow(leave=leave, tick=lambda trials: tick(SweepStatus(root, tuple(trials))))
        return SweepStatus(root, tuple(driver.trials)), driver.comparison()


def read_sweep(directory: str, progress: Progress) -> tuple[SweepStatus, Ranking]:
    """Return how a sweep is doing and which point is the best. Slurm is asked once. Raises RequestError."""
    found = SweepDirectory.at(user_path(directory, Path.cwd(), where="DIR"))
    record = found.record() or {}
    settings = record["settings"]
    definition = Definition(
        record["fixed"]["name"], (), _not_planned, metrics=tuple(settings["metrics"]), reward=settings["reward"]
    )
    window = StepWindow(settings["warmup_steps"], settings.get("last_steps"))
    runs = SlurmRuns(found, definition, record["id"], progress, window=window)
    how = DriverSettings(repeat=settings["repeat"], max_repeats=settings["max_repeats"])
    driver = SweepDriver(found, definition, Listed([]), runs, progress, how)
    driver.look()
    return SweepStatus(found.root, tuple(driver.trials)), driver.comparison()


_ALL = 1_000_000


def _load(file: str) -> SweepFile:
    return load_sweep(user_path(file, Path.cwd(), where="FILE"))


@contextlib.contextmanager
def _driven(sweep: SweepFile, progress: Progress, options: Options) -> Iterator[SweepDriver]:
    """Hold the sweep's lock, and yield the driver that drives it. Raises RequestError where no point can be run."""
    spec, definition = sweep.spec, sweep.definition
    strategy = _strategy(sweep)
    directory = SweepDirectory(_root(sweep))
    repeat = _repeat(sweep, options)
    settings = {
        "metrics": definition.metrics,
        "reward": definition.reward,
        "warmup_steps": spec.warmup_steps,
        "repeat": repeat,
        "max_repeats": spec.max_repeats,
        "axes": [axis.key for axis in definition.axes],
        "file": str(sweep.path),
    }
    record = directory.create({**sweep.fixed, **_code(sweep)}, settings)
    wait = f"waiting for the launcher that drives {definition.name}"
    with directory.lock(lambda: progress.info(wait)) as lock:
        parallel = options.max_parallel or spec.max_parallel
        agent = spec.strategy == "agent"
        runs = SlurmRuns(
            directory,
            definition,
            record["id"],
            progress,
            window=StepWindow(spec.warmup_steps),
            # An agent is asked for no more than may run, so that none of its points has to wait for another one's job.
            max_parallel=None if agent and repeat == 1 else parallel,
            shell=LocalShell(keep=(lock,)),
        )
        how = DriverSettings(repeat, spec.max_repeats, (parallel or _AGENT_PARALLEL) if agent else None)
        yield SweepDriver(directory, definition, strategy, runs, progress, how)


def _repeat(sweep: SweepFile, options: Options) -> int | Literal["auto"]:
    return options.repeat if options.repeat is not None else sweep.spec.repeat


def _strategy(sweep: SweepFile) -> Strategy:
    spec, axes = sweep.spec, sweep.definition.axes
    if spec.strategy == "list":
        return Listed(sweep.points)
    if spec.strategy == "grid":
        return grid_strategy(axes)
    if spec.strategy == "random":
        return random_strategy(axes, spec.trials or 1, spec.seed)
    from launcher.sweep.optuna_agent import OptunaAgent

    return OptunaAgent(axes, spec.agent or AgentSpec(), trials=spec.trials or 1, seed=spec.seed)


def _root(sweep: SweepFile) -> Path:
    """Return the parent of all runs of a sweep: `<run root>/<name>`, the same for all of its points."""
    host = detect_host()
    base = {key: value for key, value in sweep.fixed.items() if key != "name"}
    request = load_request(base, environ=host.environ, directory=host.directory)
    cluster = load_cluster(_first(sweep).cluster or request.cluster or default_cluster(host), host.environ)
    return run_root(request, cluster, host) / sweep.definition.name


def _first(sweep: SweepFile) -> Request:
    """Return a request with the first value of each option that varies."""
    return next(_of_recipes(sweep))


def _of_recipes(sweep: SweepFile) -> Iterator[Request]:
    """Yield a request for each recipe of the sweep, with the first values of all other options."""
    if sweep.points:
        of_recipe = {point.to_dict().get("recipe"): point for point in reversed(sweep.points)}
        points = [
            SweepPoint(tuple(each for each in point.values if each[0] in OPTIONS)) for point in of_recipe.values()
        ]
    else:
        options = [axis for axis in sweep.definition.axes if axis.key in OPTIONS]
        points = [*grid([axis if axis.key == "recipe" else Axis(axis.key, axis.choices[:1]) for axis in options])]
    yield from map(sweep.definition.request_of, points)


def _code(sweep: SweepFile) -> dict[str, str]:
    """Return the digest of the code of each recipe: a sweep compares runs of the same code."""
    plans = ManyPlans()
    return {f"code of {request.recipe}": plans.code_digest(request) for request in _of_recipes(sweep)}


def _not_planned(point: SweepPoint) -> Request:
    raise RequestError(f"point {point.label} is read, not planned")
