"""The loop of a sweep: observe, judge, repeat, ask, start. What it decides is on disk before it is done."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from launcher._util.errors import LauncherError
from launcher.api.progress import Progress
from launcher.sweep import directory as lines
from launcher.sweep.compare import Ranking, compare, wants_repeat
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.executor import Definition, Executor, Observation
from launcher.sweep.rewards import reward_of
from launcher.sweep.trajectory import write_trajectory
from launcher.sweep.trials import Strategy, Trial, TrialState

_ALL = 1_000_000
_POLL_S = 5.0
AUTO_RUNS = 2
"""Runs of each point before those that may be the best are repeated."""

_UNDER_WAY: tuple[TrialState, ...] = ("unknown", "running", "queued")

_NEVER = (
    "DependencyNeverSatisfied",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldUser",
    "JobHeldAdmin",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
)
"""Slurm's reasons of jobs that do not start unless somebody changes something."""


@dataclass(frozen=True)
class DriverSettings:
    """How a sweep is driven."""

    repeat: int | Literal["auto"] = 1
    max_repeats: int = 12
    parallel: int | None = None
    """How many trials may be under way when the strategy is asked; None: all that it has."""
    poll_s: float = _POLL_S


class SweepDriver:
    """Drives one sweep. Its state is the directory: a new one goes on where another was killed."""

    def __init__(
        self,
        directory: SweepDirectory,
        definition: Definition,
        strategy: Strategy,
        executor: Executor,
        progress: Progress,
        settings: DriverSettings,
    ) -> None:
        self._directory = directory
        self._definition = definition
        self._strategy = strategy
        self._executor = executor
        self._progress = progress
        self._settings = settings
        self._reward = reward_of(definition.reward)
        self._observed = dict[str, Observation]()
        self._trials = {trial.number: trial for trial in directory.trials()}
        for trial in self._trials.values():
            strategy.restore(trial)

    @property
    def trials(self) -> list[Trial]:
        """Return all trials in order of their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def over(self) -> bool:
        """Return whether nothing is left to do."""
        return self._strategy.exhausted and all(trial.ended for trial in self._trials.values())

    def look(self) -> None:
        """Look at all runs that have not ended, and change nothing: another process may drive the sweep."""
        live = [trial for trial in self._trials.values() if not trial.ended]
        self._observed.update(self._executor.observe([sample for trial in live for sample in trial.samples]))
        self._trials.update({trial.number: self._judge(trial) for trial in live})

    def submit(self) -> None:
        """Ask for all that the strategy has, and start it. Returns without waiting for results."""
        self._executor.start([])  # what was interrupted
        self._ask_again()
        self._finish_stops()
        if any(not trial.ended for trial in self._trials.values()):
            self._observe()
        self._ask()
        self._start()
        self._write_trajectory()

    def follow(self, *, leave: Callable[[], bool], tick: Callable[[Sequence[Trial]], None]) -> bool:
        """Drive the sweep until it is over. Return False where `leave` ended that, or what is left will never start.

        `tick` is called after each look, with all trials.
        """
        self._executor.start([])
        self._ask_again()
        self._finish_stops()
        while True:
            self._observe()
            self._repeat()
            self._ask()
            self._start()
            self._write_trajectory()
            tick(self.trials)
            if self.over:
                return True
            if self._stuck():
                return False
            until = time.monotonic() + self._settings.poll_s
            while time.monotonic() < until:
                if leave():
                    return False
                time.sleep(0.1)

    # ---- results

    def _observe(self) -> None:
        live = [trial for trial in self._trials.values() if not trial.ended]
        observed = self._executor.observe([sample for trial in live for sample in trial.samples])
        self._observed.update(observed)
        over = list[Trial]()
        for trial in live:
            judged = self._judge(trial)
            self._trials[trial.number] = judged
            if judged.ended:
                over.append(judged)
            elif judged.state == "running":
                self._stop_early(judged)
        self._end(over)

    def _judge(self, trial: Trial) -> Trial:
        """Return the trial with what its runs show."""
        found = [self._observed.get(sample.name) for sample in trial.samples]
        runs = tuple(each.run_dir for each in found if each is not None and each.run_dir)
        known = [each for each in found if each is not None]
        bad = next((each for each in known if each.state in ("failed", "cancelled", "pruned")), None)
        under_way = any(each.state in _UNDER_WAY for each in known)
        if bad is not None and not under_way:  # jobs of a point that has ended would be forgotten
            several = (
                f"{sum(each.state == bad.state for each in known)} of {len(found)} runs: " if len(found) > 1 else ""
            )
            return self._failed(replace(trial, state=bad.state, reason=f"{several}{bad.reason or ''}", runs=runs))
        if len(known) == len(found) and all(each.state == "finished" for each in known):
            return self._finished(replace(trial, runs=runs), known)
        states = {each.state for each in known}
        state: TrialState = next((each for each in _UNDER_WAY if each in states), "asked")
        words = next((each.reason for each in known if each.state == state), None)
        return replace(trial, state=state, reason=words, runs=runs)

    def _finished(self, trial: Trial, found: Sequence[Observation]) -> Trial:
        metrics = _medians([each.metrics for each in found])
        missing = [name for name in self._definition.metrics if name not in metrics]
        if missing:
            return self._failed(replace(trial, state="failed", reason=f"it has not measured {', '.join(missing)}"))
        reward = self._reward([metrics[name] for name in self._definition.metrics])
        return replace(trial, state="finished", reason=None, metrics=tuple(metrics.items()), reward=reward)

    def _failed(self, trial: Trial) -> Trial:
        return replace(trial, reward=self._definition.failure_reward)

    def _end(self, trials: Sequence[Trial]) -> None:
        """Record trials that have ended, and tell the strategy."""
        if not trials:
            return
        self._directory.note([lines.ended(trial) for trial in trials])
        for trial in trials:
            self._trials[trial.number] = trial
            self._strategy.tell(trial)

    # ---- stopping early

    def _stop_early(self, trial: Trial) -> None:
        shown = self._observed.get(trial.samples[0].name)
        if shown is None or shown.step is None or shown.value is None or trial.repeats > 1:
            return
        value = self._reward([shown.value, *([shown.value] * (len(self._definition.metrics) - 1))])
        if self._strategy.should_stop(trial, shown.step, value):
            reason = f"stopped early at iteration {shown.step}: {self._definition.metrics[0]} {shown.value:.6g}"
            self._directory.note([lines.stopping(trial, reason)])
            self._stop(replace(trial, stopping=True, reason=reason))

    def _finish_stops(self) -> None:
        for trial in [each for each in self._trials.values() if each.stopping and not each.ended]:
            self._stop(trial)

    def _stop(self, trial: Trial) -> None:
        try:
            for sample in trial.samples:
                self._executor.stop(sample)
        except LauncherError as error:
            self._progress.warn(f"{trial.content.label} was not stopped: {error.message}")
            return
        self._end([replace(trial, state="pruned", runs=self._judge(trial).runs)])

    # ---- repeating

    def _repeat(self) -> None:
        """Give another run to the points of which one may decide which is the best."""
        if self._settings.repeat != "auto" or not self.over:
            return
        comparison = self.comparison()
        wanted = set(wants_repeat(comparison, self._settings.max_repeats))
        again = [
            replace(trial, state="asked", repeats=trial.repeats + 1)
            for trial in _first_of_each(self.trials)
            if trial.content.name in wanted and trial.state == "finished"
        ]
        if again:
            self._progress.info(comparison.sentence)
            self._directory.note([lines.repeated(trial) for trial in again])
            self._trials.update({trial.number: trial for trial in again})

    def comparison(self) -> Ranking:
        """Compare the points that have finished, by the rewards of their runs."""
        rewards = dict[str, list[float]]()
        finished = [trial for trial in _first_of_each(self.trials) if trial.state == "finished"]
        unseen = [sample for trial in finished for sample in trial.samples if sample.name not in self._observed]
        self._observed.update(self._executor.observe(unseen) if unseen else {})
        for trial in finished:
            found = [self._observed.get(sample.name) for sample in trial.samples]
            rewards[trial.content.name] = [
                self._reward([each.metrics[name] for name in self._definition.metrics])
                for each in found
                if each is not None and all(name in each.metrics for name in self._definition.metrics)
            ]
            if not rewards[trial.content.name] and trial.reward is not None:  # its runs were removed
                rewards[trial.content.name] = [trial.reward]
        looks = max(1, self._settings.max_repeats - AUTO_RUNS + 1) if self._settings.repeat == "auto" else 1
        return compare(rewards, looks=looks)

    # ---- asking and starting

    def _ask(self) -> None:
        live = sum(not trial.ended for trial in self._trials.values())
        parallel = self._settings.parallel
        points = self._strategy.ask(_ALL if parallel is None else max(0, parallel - live))
        repeats = AUTO_RUNS if self._settings.repeat == "auto" else self._settings.repeat
        first = max(self._trials, default=0) + 1
        fresh = [
            Trial(
                number,
                point,
                tuple((draw.key, draw.of_trial(number, self._definition.seed)) for draw in self._definition.draws),
                repeats=repeats,
            )
            for number, point in enumerate(points, first)
        ]
        if fresh:
            self._directory.note([lines.asked(trial) for trial in fresh])
            self._trials.update({trial.number: trial for trial in fresh})

    def _ask_again(self) -> None:
        """Ask for points that were refused and may be accepted now: limits, nodes, images and profiles change."""
        refused = [trial for trial in self._trials.values() if trial.state == "refused"]
        still = self._executor.refuse([trial.content for trial in refused]) if refused else {}
        again = [
            replace(trial, state="asked", reason=None, reward=None)
            for trial in refused
            if trial.content.name not in still
        ]
        if self._settings.parallel is not None:
            live = sum(not trial.ended for trial in self._trials.values())
            again = again[: max(0, self._settings.parallel - live)]
        if again:
            self._directory.note([lines.repeated(trial) for trial in again])
            self._trials.update({trial.number: trial for trial in again})

    def _start(self) -> None:
        """Start the runs of all trials that have not ended; those that cannot be run end here."""
        asked = [trial for trial in self._trials.values() if trial.state == "asked" and not trial.stopping]
        samples = {sample.name: sample for trial in asked for sample in trial.samples}
        if not samples:
            return
        refused = self._executor.start(list(samples.values()))
        self._end(
            [
                replace(
                    trial,
                    state="refused",
                    reason=refused[trial.content.name],
                    reward=self._definition.refused_reward,
                )
                for trial in asked
                if trial.content.name in refused
            ]
        )

    def _stuck(self) -> bool:
        """Return whether all that is left waits for something that does not come by itself."""
        live = [trial for trial in self._trials.values() if not trial.ended]
        return bool(live) and all(trial.state == "queued" and never_starts(trial.reason) for trial in live)

    def _write_trajectory(self) -> None:
        write_trajectory(self._directory.trajectory, self.trials, self._definition.metrics)


def never_starts(reason: str | None) -> bool:
    """Return whether a job that waits for this reason does not start by itself."""
    return reason is not None and any(words in reason for words in _NEVER)


def _first_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """Return one trial of each point: several may have asked for the same one."""
    found = dict[str, Trial]()
    for trial in trials:
        found.setdefault(trial.content.name, trial)
    return list(found.values())


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run[name] for run in runs if name in run) for name in names}
