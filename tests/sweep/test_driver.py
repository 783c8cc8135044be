"""The loop of a sweep, with an executor that only counts: interruptions, repeats, refusals, early stops, agents."""

import csv
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher._util.errors import OutsideError, RequestError
from launcher.api.progress import Silent
from launcher.config.request import Request
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.driver import DriverSettings, SweepDriver, never_starts
from launcher.sweep.executor import Definition, Observation
from launcher.sweep.file import AgentSpec
from launcher.sweep.points import Axis, Draw, Range, SweepPoint
from launcher.sweep.strategies import grid_strategy, random_strategy
from launcher.sweep.trials import PointRun, Strategy, Trial

AXES = (Axis("x", (1, 2, 3, 4)), Axis("y", ("a", "b")))


class Killed(BaseException):
    """The launcher was killed here."""


@dataclass
class World:
    """Runs that take a few looks each, and what was done to them. It outlives drivers, as a cluster does."""

    time_of: Callable[[SweepPoint], float]
    looks: int = 2
    refused: Mapping[str, str] = field(default_factory=dict)
    failing: Sequence[str] = ()
    waiting: Sequence[str] = ()
    """Labels of points whose jobs never start."""
    started: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    stopped: list[str] = field(default_factory=list)
    noise: float = 0.0
    kill_at: int = -1
    """The call at which the launcher is killed."""
    calls: int = 0

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed

    def refuse(self, points: Sequence[SweepPoint]) -> Mapping[str, str]:
        return {point.name: self.refused[point.label] for point in points if point.label in self.refused}

    def start(self, samples: Sequence[PointRun]) -> Mapping[str, str]:
        for sample in samples:
            self._call()
            if sample.point.label not in self.refused and sample.name not in self.started:
                self.started[sample.name] += 1
        return self.refuse([sample.point for sample in samples])

    def observe(self, samples: Sequence[PointRun]) -> Mapping[str, Observation]:
        self._call()
        return {sample.name: self._of(sample) for sample in samples if sample.name in self.started}

    def _of(self, sample: PointRun) -> Observation:
        label, name = sample.point.label, sample.name
        if name in self.stopped:
            return Observation("cancelled", "it was cancelled", run_dir=name)
        if label in self.waiting:
            return Observation("queued", "JobHeldUser", run_dir=name)
        self.seen[name] += 1
        draw = random.Random(name)  # noqa: S311
        took = self.time_of(sample.point) * draw.gauss(1, self.noise)
        if self.seen[name] <= self.looks:
            return Observation("running", run_dir=name, step=self.seen[name] * 10, value=took)
        if label in self.failing:
            return Observation("failed", "failed: ValueError", run_dir=name)
        return Observation("finished", metrics={"step_time_s": took, "loss": 1.0}, run_dir=name)

    def stop(self, sample: PointRun) -> None:
        self._call()
        self.stopped.append(sample.name)


def not_asked(point: SweepPoint) -> Request:
    raise RequestError(point.label)


def definition(**values: object) -> Definition:
    return Definition("s", AXES, not_asked, **values)  # type: ignore[arg-type]


def driver(
    root: Path,
    world: World,
    strategy: Strategy | None = None,
    settings: DriverSettings | None = None,
    of: Definition | None = None,
) -> SweepDriver:
    directory = SweepDirectory(root)
    directory.create({"name": "s"}, {})
    how = settings or DriverSettings(poll_s=0)
    return SweepDriver(directory, of or definition(), strategy or grid_strategy(AXES), world, Silent(), how)


def follow(driven: SweepDriver) -> bool:
    return driven.follow(leave=lambda: False, tick=lambda _: None)


def states(trials: Sequence[Trial]) -> dict[str, str]:
    return {trial.content.label: trial.state for trial in trials}


def test_what_was_refused_is_asked_for_again_by_the_same_command(tmp_path: Path) -> None:
    world = World(lambda point: float(str(point["x"])), refused={"x=2 y=a": "too many jobs", "x=3 y=a": "too large"})
    assert follow(driver(tmp_path, world))
    world.refused = {"x=3 y=a": "too large"}
    driven = driver(tmp_path, world)
    shown = {trial.content.label: trial for trial in driven.trials}
    assert (shown["x=2 y=a"].state, shown["x=2 y=a"].reason) == ("refused", "too many jobs"), "until it is asked for"
    before = SweepDirectory(tmp_path).trials_file.read_text()
    assert follow(driven)
    again = {trial.content.label: trial for trial in SweepDirectory(tmp_path).trials()}
    assert (again["x=2 y=a"].state, again["x=2 y=a"].reason) == ("finished", None)
    assert (again["x=3 y=a"].state, again["x=3 y=a"].reason) == ("refused", "too large")
    assert set(world.started.values()) == {1}
    added = SweepDirectory(tmp_path).trials_file.read_text().removeprefix(before)
    assert added.count("\n") == 2, "one line that it is asked for again, one of its end"


def test_a_point_has_not_ended_while_one_of_its_runs_goes_on(tmp_path: Path) -> None:
    world = World(lambda _: 1.0, looks=5)
    driven = driver(tmp_path, world, settings=DriverSettings(repeat=2, poll_s=0))
    driven.submit()
    shown = driven.trials[0]
    world.stopped.append(shown.samples[0].name)
    driven.look()
    assert driven.trials[0].state == "running"
    assert follow(driven)
    assert (driven.trials[0].state, driven.trials[0].reason) == ("cancelled", "1 of 2 runs: it was cancelled")


def test_the_result_of_a_run_that_was_removed_counts(tmp_path: Path) -> None:
    world = World(lambda point: float(str(point["x"])))
    first = driver(tmp_path, world)
    assert follow(first)
    removed = next(trial for trial in first.trials if trial.content.label == "x=1 y=a")
    del world.started[removed.samples[0].name]
    names = [each.name for each in driver(tmp_path, world).comparison().standings]
    assert removed.content.name in names
    assert len(names) == 8


def test_a_sweep_runs_to_its_end(tmp_path: Path) -> None:
    world = World(
        lambda point: float(str(point["x"])),
        refused={"x=2 y=a": "does not divide"},
        failing=["x=3 y=b"],
    )
    driven = driver(tmp_path, world, of=definition(refused_reward=-1.0, failure_reward=-2.0))
    assert follow(driven)
    found = {trial.content.label: trial for trial in driven.trials}
    assert Counter(trial.state for trial in found.values()) == {"finished": 6, "failed": 1, "refused": 1}
    assert found["x=4 y=a"].reward == 0.25
    assert dict(found["x=4 y=a"].metrics) == {"step_time_s": 4.0, "loss": 1.0}
    assert (found["x=2 y=a"].reason, found["x=2 y=a"].reward) == ("does not divide", -1.0)
    assert (found["x=3 y=b"].reason, found["x=3 y=b"].reward) == ("failed: ValueError", -2.0)
    assert set(world.started.values()) == {1}
    assert len(world.started) == 7
    # As CloudAI writes it: no row for a refused point, which has a number all the same.
    rows = list(csv.reader(SweepDirectory(tmp_path).trajectory.read_text().splitlines()))
    assert rows[0] == ["step", "action", "reward", "observation"]
    assert rows[1] == ["1", "{'x': 1, 'y': 'a'}", "1.0", "[1.0]"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "4", "5", "6", "7", "8"]
    assert follow(driver(tmp_path, world)), "a sweep that is over stays over"
    assert len(world.started) == 7


def test_a_sweep_that_is_killed_anywhere_goes_on(tmp_path: Path) -> None:
    reference = World(lambda point: float(str(point["x"])), failing=["x=3 y=b"])
    unkilled = driver(tmp_path / "reference", reference)
    assert follow(unkilled)
    for kill in range(1, reference.calls + 1):
        root = tmp_path / str(kill)
        world = World(lambda point: float(str(point["x"])), failing=["x=3 y=b"], kill_at=kill)
        with pytest.raises(Killed):
            follow(driver(root, world))
        again = driver(root, world)
        assert follow(again)
        assert world.started == reference.started, kill
        assert [(each.number, each.state, each.reward, each.runs) for each in again.trials] == [
            (each.number, each.state, each.reward, each.runs) for each in unkilled.trials
        ]


def test_what_is_not_known_was_not_lost(tmp_path: Path) -> None:
    class Silence(World):
        def start(self, samples: Sequence[PointRun]) -> Mapping[str, str]:
            if samples:
                raise OutsideError("Slurm does not answer")
            return {}

    world = Silence(lambda _: 1.0)
    with pytest.raises(OutsideError):
        follow(driver(tmp_path, world))
    again = World(lambda _: 1.0)
    assert follow(driver(tmp_path, again))
    assert len(again.started) == 8


def test_jobs_that_never_start_end_the_wait_and_are_named(tmp_path: Path) -> None:
    world = World(lambda _: 1.0, waiting=["x=1 y=a"])
    driven = driver(tmp_path, world)
    assert not follow(driven)
    waiting = [trial for trial in driven.trials if not trial.ended]
    assert [(trial.content.label, trial.state, trial.reason) for trial in waiting] == [
        ("x=1 y=a", "queued", "JobHeldUser")
    ]
    assert never_starts("DependencyNeverSatisfied")
    assert not never_starts("Priority")


def test_points_may_be_added_to_a_sweep(tmp_path: Path) -> None:
    world = World(lambda _: 1.0)
    assert follow(driver(tmp_path, world))
    more = (Axis("x", (1, 2, 3, 4, 5)), Axis("y", ("a", "b")))
    driven = driver(tmp_path, world, grid_strategy(more))
    assert follow(driven)
    assert set(world.started.values()) == {1}
    assert [trial.number for trial in driven.trials] == list(range(1, 11))
    with pytest.raises(RequestError, match="name was s and is t"):
        SweepDirectory(tmp_path).create({"name": "t"}, {})


def test_repeats_are_runs_of_their_own_and_their_median_counts(tmp_path: Path) -> None:
    world = World(lambda _: 1.0, noise=0.1)
    driven = driver(tmp_path, world, settings=DriverSettings(repeat=3, poll_s=0))
    assert follow(driven)
    assert len(world.started) == 24
    first = driven.trials[0]
    assert first.runs == tuple(f"{first.content.name}-{repeat}" for repeat in range(3))
    times = sorted(1.0 * random.Random(run).gauss(1, 0.1) for run in first.runs)  # noqa: S311
    assert first.reward == 1 / times[1]


@pytest.mark.parametrize("kill", [-1, 8, 14, 18])
def test_repeat_auto_finds_a_point_that_is_one_percent_faster(tmp_path: Path, kill: int) -> None:
    def time_of(point: SweepPoint) -> float:
        return {"1": 1.0, "2": 1.01}.get(str(point["x"]), 1.2)

    world = World(time_of, noise=0.003, kill_at=kill, looks=0)
    only = (Axis("x", (1, 2, 3, 4, 5)),)
    settings = DriverSettings(repeat="auto", poll_s=0)
    if kill > 0:
        with pytest.raises(Killed):
            follow(driver(tmp_path, world, grid_strategy(only), settings))
    driven = driver(tmp_path, world, grid_strategy(only), settings)
    assert follow(driven)
    found = driven.comparison()
    assert found.verdict == "best"
    assert found.standings[0].name == SweepPoint.of({"x": 1}).name
    runs = {each.name: each.runs for each in found.standings}
    assert runs[SweepPoint.of({"x": 1}).name] > 2
    assert runs[SweepPoint.of({"x": 3}).name] == 2, "what is far behind is not repeated"
    assert set(world.started.values()) == {1}


def test_repeat_auto_does_not_rank_equal_points(tmp_path: Path) -> None:
    world = World(lambda _: 1.0, noise=0.01, looks=0)
    settings = DriverSettings(repeat="auto", max_repeats=5, poll_s=0)
    driven = driver(tmp_path, world, grid_strategy((Axis("x", (1, 2)),)), settings)
    assert follow(driven)
    assert driven.comparison().verdict in ("undecided", "equal")
    assert len(world.started) == 10


def test_drawn_values_are_the_environments_and_make_runs_of_their_own(tmp_path: Path) -> None:
    world = World(lambda _: 1.0)
    drawn = definition(draws=(Draw("drop", (0.0, 0.5)),), seed=3)
    driven = driver(tmp_path, world, random_strategy(AXES, 8, 0), of=drawn)
    assert follow(driven)
    values = [Draw("drop", (0.0, 0.5)).of_trial(number, 3) for number in range(1, 9)]
    assert [dict(trial.drawn)["drop"] for trial in driven.trials] == values
    assert {trial.content["drop"] for trial in driven.trials} == {0.0, 0.5}
    table = SweepDirectory(tmp_path).trajectory.with_name("metadata.csv").read_text().splitlines()
    assert table[:2] == ["step,env_params.drop", f"1,{values[0]}"]
    again = driver(tmp_path, world, random_strategy(AXES, 8, 0), of=drawn)
    assert [trial.content.name for trial in again.trials] == [trial.content.name for trial in driven.trials]


def test_an_agent_finds_the_best_point_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    from launcher.sweep.optuna_agent import OptunaAgent

    axes = (Axis("x", Range(-5.0, 5.0)), Axis("y", ("a", "b", "c")))

    def time_of(point: SweepPoint) -> float:
        x = point["x"]
        assert isinstance(x, float)
        return 1.0 + (x - 2.0) ** 2 + (0.0 if point["y"] == "b" else 5.0)

    def agent() -> OptunaAgent:
        return OptunaAgent(axes, AgentSpec(startup_trials=8), trials=40, seed=1)

    world = World(time_of, looks=0, kill_at=30)
    settings = DriverSettings(parallel=2, poll_s=0)
    with pytest.raises(Killed):
        follow(driver(tmp_path, world, agent(), settings))
    before = len(world.started)
    driven = driver(tmp_path, world, agent(), settings)
    assert follow(driven)
    assert before < 40
    assert len(driven.trials) == 40
    best = max(driven.trials, key=lambda trial: trial.reward or 0.0)
    assert best.content["y"] == "b"
    assert dict(best.metrics)["step_time_s"] < 1.5
    late = [trial for trial in driven.trials if trial.number > 25]
    assert sum(trial.content["y"] == "b" for trial in late) > len(late) / 2, "it has learnt"


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_pruner_stops_bad_points_early(tmp_path: Path, pruner: str) -> None:
    from launcher.sweep.optuna_agent import OptunaAgent

    axes = (Axis("x", Range(1.0, 100.0)),)
    agent = OptunaAgent(axes, AgentSpec.model_validate({"sampler": "random", "pruner": pruner}), trials=30, seed=2)
    world = World(lambda point: float(str(point["x"])), looks=5)
    driven = driver(tmp_path, world, agent, DriverSettings(parallel=3, poll_s=0))
    assert follow(driven)
    pruned = [trial for trial in driven.trials if trial.state == "pruned"]
    finished = [trial for trial in driven.trials if trial.state == "finished"]
    assert 3 <= len(pruned) <= 29
    assert sorted(world.stopped) == sorted(f"{trial.content.name}-0" for trial in pruned)
    assert "stopped early at iteration" in (pruned[0].reason or "")
    bad, good = (statistics.fmean(float(str(trial.content["x"])) for trial in some) for some in (pruned, finished))
    assert bad > good


def test_a_stop_that_was_decided_is_done_after_a_kill(tmp_path: Path) -> None:
    class Once:
        """Stop the first trial that is seen."""

        def __init__(self) -> None:
            self.grid = grid_strategy((Axis("x", (1, 2)),))

        def __getattr__(self, name: str) -> object:
            return getattr(self.grid, name)

        def should_stop(self, trial: Trial, _step: int, _value: float) -> bool:
            return trial.number == 1

    class Fatal(World):
        def stop(self, sample: PointRun) -> None:
            if not self.kill_at:
                self.kill_at = 1
                raise Killed
            super().stop(sample)

    world = Fatal(lambda _: 1.0, kill_at=0)
    with pytest.raises(Killed):
        follow(driver(tmp_path, world, Once()))  # type: ignore[arg-type]
    world.kill_at = -1
    driven = driver(tmp_path, world, grid_strategy((Axis("x", (1, 2)),)))
    assert follow(driven)
    assert states(driven.trials) == {"x=1": "pruned", "x=2": "finished"}
    assert world.stopped == [f"{SweepPoint.of({'x': 1}).name}-0"]
