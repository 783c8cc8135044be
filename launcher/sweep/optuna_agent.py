"""An agent that chooses points by the results so far, with Optuna's samplers and pruners (the extra `sweep`)."""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launcher._util.errors import PrerequisiteError
from launcher.sweep.file import AgentSpec
from launcher.sweep.points import Axis, Range, SweepPoint, Value, value_text
from launcher.sweep.trials import Trial

if TYPE_CHECKING:
    import optuna


class OptunaAgent:
    """A strategy that asks an Optuna study. The study lives in this process: the sweep's trials rebuild it."""

    def __init__(self, axes: Sequence[Axis], spec: AgentSpec, *, trials: int, seed: int) -> None:
        """Make an empty study. Raises PrerequisiteError where Optuna is not installed."""
        try:
            import optuna
        except ImportError:
            raise PrerequisiteError(
                "the strategy agent needs Optuna, which is not installed",
                hint="Install the launcher with its extra `sweep` (launcher help install).",
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._axes = axes
        self._distributions = {axis.key: self._distribution(axis) for axis in axes}
        self._study = optuna.create_study(
            direction="maximize", sampler=self._sampler(spec, seed), pruner=self._pruner(spec)
        )
        self._left = trials
        self._live = defaultdict[str, deque["optuna.Trial"]](deque)
        """Trials without a result by the name of their point: one point may be asked for several times."""

    def ask(self, count: int) -> list[SweepPoint]:
        """Return the next points, as many as are wanted and left."""
        found = list[SweepPoint]()
        while len(found) < count and self._left > 0:
            self._left -= 1
            trial = self._study.ask(self._distributions)
            point = SweepPoint(tuple((axis.key, self._value(axis, trial.params[axis.key])) for axis in self._axes))
            self._live[point.name].append(trial)
            found.append(point)
        return found

    def tell(self, trial: Trial) -> None:
        """Give the study a result. A trial without a reward teaches only that it failed."""
        waiting = self._live[trial.point.name]
        if not waiting:
            return
        state = self._state(trial)
        self._study.tell(waiting.popleft(), self._reward(trial, state), state=state)

    def restore(self, trial: Trial) -> None:
        """Give the study a trial of an earlier process."""
        self._left -= 1
        try:
            params = {axis.key: self._param(axis, trial.point[axis.key]) for axis in self._axes}
        except (KeyError, ValueError):  # of an axis or a value that is no longer in the file
            return
        if trial.ended:
            state = self._state(trial)
            value = self._reward(trial, state)
            made = self._optuna.trial.create_trial(
                state=state, value=value, params=params, distributions=self._distributions
            )
            self._study.add_trial(made)
        else:
            self._study.enqueue_trial(params)
            self._live[trial.point.name].append(self._study.ask(self._distributions))

    def should_stop(self, trial: Trial, step: int, value: float) -> bool:
        """Return what the pruner says of a reward after so many iterations."""
        waiting = self._live[trial.point.name]
        if not waiting:
            return False
        waiting[0].report(value, step)
        return bool(waiting[0].should_prune())

    @property
    def exhausted(self) -> bool:
        """Return whether all trials were asked for."""
        return self._left <= 0

    def _state(self, trial: Trial) -> Any:
        states = self._optuna.trial.TrialState
        if trial.state == "pruned":
            return states.PRUNED
        return states.FAIL if trial.reward is None else states.COMPLETE

    def _reward(self, trial: Trial, state: Any) -> float | None:
        return trial.reward if state == self._optuna.trial.TrialState.COMPLETE else None

    def _distribution(self, axis: Axis) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(axis.values, Range):
            return kinds.CategoricalDistribution(range(len(axis.values)))
        if axis.values.integer:
            return kinds.IntDistribution(int(axis.values.low), int(axis.values.high), log=axis.values.log)
        return kinds.FloatDistribution(axis.values.low, axis.values.high, log=axis.values.log)

    def _value(self, axis: Axis, param: Any) -> Value:
        if isinstance(axis.values, Range):
            return int(param) if axis.values.integer else float(param)
        found: Value = axis.values[param]
        return found

    def _param(self, axis: Axis, value: Value) -> Any:
        if isinstance(axis.values, Range):
            return value
        return [value_text(each) for each in axis.values].index(value_text(value))

    def _sampler(self, spec: AgentSpec, seed: int) -> Any:
        samplers = self._optuna.samplers
        if spec.sampler == "tpe":
            # Points that still run count as bad, so that those chosen together are not alike.
            return samplers.TPESampler(seed=seed, n_startup_trials=spec.startup_trials, constant_liar=True)
        if spec.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=spec.startup_trials)
        if spec.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=spec.startup_trials)
        return samplers.RandomSampler(seed=seed)

    def _pruner(self, spec: AgentSpec) -> Any:
        pruners = self._optuna.pruners
        if spec.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=spec.min_steps)
        if spec.pruner == "halving":
            return pruners.SuccessiveHalvingPruner(min_resource=spec.min_steps)
        if spec.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=spec.min_steps)
        return pruners.NopPruner()
