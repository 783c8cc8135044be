"""The sweeps of a scenario's tests, driven by the launcher's own engine: points as job arrays, agents, draws."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher._util.errors import LauncherError
from launcher._util.shell import LocalShell
from launcher.api.progress import Progress
from launcher.cloudai.cases import (
    PlannedCase,
    RunChoices,
    axes_of,
    case_of_point,
    draws_of,
    plan_case,
    strategy_of,
    with_draws,
)
from launcher.cloudai.constraints import BuiltRecipe, violations
from launcher.cloudai.environment import in_shell
from launcher.cloudai.load import LoadedFiles, ScenarioTest
from launcher.cloudai.records import write_case
from launcher.cloudai.results import LAST_STEPS, MEASURED
from launcher.cloudai.sources import Checkout
from launcher.config.request import Request
from launcher.contract import files
from launcher.rundir import RunDirectory
from launcher.rundir.journal import Journal
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.driver import DriverSettings, SweepDriver
from launcher.sweep.executor import Definition
from launcher.sweep.measure import StepWindow
from launcher.sweep.points import SweepPoint
from launcher.sweep.rewards import reward_of
from launcher.sweep.runs import SlurmRuns
from launcher.sweep.trials import Strategy, Trial

_PARALLEL = 4
"""Trials of an agent at the same time that chooses by results."""


class TestSweep:
    """The sweep of one test. Its state is on disk: made again with the same files, it goes on."""

    __test__ = False

    def __init__(
        self,
        test: ScenarioTest,
        loaded: LoadedFiles,
        root: Path,
        options: RunChoices,
        source: Checkout,
        dependencies: Sequence[str],
        progress: Progress,
    ) -> None:
        self._test, self._loaded, self._root, self._options = test, loaded, root, options
        self._source, self._dependencies, self._progress = source, tuple(dependencies), progress
        self._planned: dict[str, PlannedCase] = {}
        first = self._plan(with_draws(test, 1, strategy_of(test).ask(1)[0]))
        self._secrets = first.environment.secrets
        with in_shell(self._secrets):
            self._recipe = built_recipe(first.request, progress)
        self._name = str(first.request.name)
        self.over = False
        """Whether no point is left to ask for, and all have ended, as far as was looked."""
        self.directory = SweepDirectory(root / "runs" / self._name)

    @property
    def feeds_on_results(self) -> bool:
        """Return whether its agent chooses points by the results of others."""
        return self._test.test.agent == "bayesian_optimization"

    def submit(self) -> list[Trial]:
        """Submit what can be submitted without results, each point once. Raises RequestError, SlurmError, DiskError."""
        return self._drive(lambda driver: driver.submit())

    def follow(
        self, *, leave: Callable[[], bool], tick: Callable[[Sequence[Trial]], None], ended: Callable[[], bool]
    ) -> list[Trial]:
        """Drive an agent that chooses by results until it is done, or `leave` says so.

        It is asked for no further point once `ended` says that its test has ended.
        """
        return self._drive(lambda driver: driver.follow(leave=leave, tick=tick), ended)

    def run_of(self, trial: Trial) -> RunDirectory:
        """Return the run of a trial."""
        record = self.directory.record() or {}
        return RunDirectory(self.directory.root / f"{trial.samples[0].name}-{record['id']}")

    def _drive(self, act: Callable[[SweepDriver], object], ended: Callable[[], bool] = lambda: False) -> list[Trial]:
        definition = self._definition()
        record = self.directory.create(
            {"name": self._name, "test": self._test.entry.id},
            {
                "metrics": definition.metrics,
                "reward": definition.reward,
                "warmup_steps": 0,
                "last_steps": LAST_STEPS,
                "repeat": 1,
                "max_repeats": 12,
                "axes": [axis.key for axis in definition.axes],
                "file": str(self._loaded.scenario.file.path),
            },
        )
        wait = f"waiting for the launcher that drives {self._name}"
        with in_shell(self._secrets), self.directory.lock(lambda: self._progress.info(wait)) as lock:
            runs = SlurmRuns(
                self.directory,
                definition,
                record["id"],
                self._progress,
                window=StepWindow(0, LAST_STEPS),
                shell=LocalShell(keep=(lock,)),
            )
            settings = DriverSettings(parallel=_PARALLEL if self.feeds_on_results else None)
            strategy = _UntilEnded(strategy_of(self._test), ended)
            driver = SweepDriver(self.directory, definition, strategy, runs, self._progress, settings)
            act(driver)
            self._write_cases(driver.trials, runs)
            self.over = driver.over
            return driver.trials

    def _definition(self) -> Definition:
        test = self._test.test
        rewards = test.settings.rewards
        return Definition(
            name=self._name,
            axes=axes_of(self._test),
            request_of=self._request,
            constraints=(("CloudAI's checks", self._refusal),),
            draws=draws_of(self._test),
            metrics=tuple(MEASURED[name] for name in test.agent_metrics),
            reward=test.agent_reward_function,
            # A metric that was not measured has this value.
            failure_reward=reward_of(test.agent_reward_function)([rewards.metric_failure] * len(test.agent_metrics)),
            refused_reward=rewards.constraint_failure,
            seed=test.draw_seed,
        )

    def _refusal(self, point: SweepPoint) -> str | None:
        case = case_of_point(self._test, 0, point)
        return "; ".join(map(str, violations(case.test.cmd_args, self._recipe))) or None

    def _request(self, point: SweepPoint) -> Request:
        planned = self._plan(point)
        request = planned.request
        if self._dependencies:
            dependency = ",".join(self._dependencies)
            request = request.model_copy(update={"sbatch": {**request.sbatch, "dependency": dependency}})
        return request

    def _plan(self, point: SweepPoint) -> PlannedCase:
        """Return what is asked of the launcher for a point; its profile is written. Raises RequestError."""
        if point.name not in self._planned:
            planned = plan_case(
                case_of_point(self._test, 0, point),
                self._loaded,
                self._root,
                self._options,
                shell_environment=os.environ,
                source=self._source,
                directory=self._of_point(point),
            )
            path = Path(str(planned.request.cluster))
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_text(path, planned.profile.text)
            planned.directory.mkdir(parents=True, exist_ok=True)
            if not self._planned:
                for note in planned.notes:
                    say = self._progress.warn if note.level == "warning" else self._progress.info
                    say(f"{self._test.entry.id}: {note}")
            self._planned[point.name] = planned
        return self._planned[point.name]

    def _of_point(self, point: SweepPoint) -> Path:
        return self._root / self._test.entry.id / "0" / "points" / point.name

    def _write_cases(self, trials: Sequence[Trial], runs: SlurmRuns) -> None:
        """Write the record of each trial, with links to its run and to the files of its point."""
        for trial in trials:
            case = case_of_point(self._test, trial.number, trial.content)
            directory = self._root / case.name
            directory.mkdir(parents=True, exist_ok=True)
            if trial.state == "refused":
                write_case(case, directory, None, None, refused=trial.reason)
                continue
            run = runs.run_directory(trial.samples[0])
            planned = replace(self._plan(trial.content), case=case, directory=directory)
            facts: dict[str, Any] = {"run_dir": str(run.path), "job": job_of(run.journal), "cluster": None}
            write_case(case, directory, planned, facts)
            for name, target in (("run", run.path), ("nemo_run", self._of_point(trial.content))):
                link = directory / name
                if not link.is_symlink():
                    link.symlink_to(os.path.relpath(target, directory))


class _UntilEnded:
    """A strategy that asks for nothing once its test has ended; see `trials.Strategy`."""

    def __init__(self, strategy: Strategy, ended: Callable[[], bool]) -> None:
        self._strategy, self._ended = strategy, ended
        self.tell, self.restore, self.should_stop = strategy.tell, strategy.restore, strategy.should_stop

    def ask(self, count: int) -> Sequence[SweepPoint]:
        return [] if self._ended() else self._strategy.ask(count)

    @property
    def exhausted(self) -> bool:
        return self._strategy.exhausted


def built_recipe(request: Request, progress: Progress) -> BuiltRecipe | None:
    """Return what a request's recipe sets, by running it in a CPU process once for a whole sweep.

    None where that is not possible or not wanted: without the training stack and an image with it, with an entrypoint
    of the user's own, and where the first point cannot be built.
    """
    from launcher.api.check_config import check_config, stack_is_here
    from launcher.api.discover import discover

    if request.check_config is False or request.entrypoint is not None:
        return None
    try:
        found = discover(request, "submit")
        if not stack_is_here(found):
            return None
        return BuiltRecipe.of(check_config(found, progress).resolved["config"]["model"])
    except LauncherError as error:
        progress.warn(f"the layers of the recipe are not known, its first point cannot be built: {error.message}")
        return None


def job_of(journal: Journal) -> str | None:
    """Return the job that a run's journal names."""
    jobs = [str(event["job"]) for event in journal.read() if event["event"] == "submitted" and event.get("job")]
    return jobs[-1] if jobs else None
