"""Which of several changes makes two trainings differ: bisection over settings and options, then over git commits."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError, OutsideError
from launcher.api.progress import Progress
from launcher.contract import values as hydra
from launcher.correlate.axes import COMMIT, ENV, Training, key_of, repository_of, with_assignments
from launcher.correlate.correlate import Pair, Run, judge_runs, like, matched, noise_of, request_of, settings, with_keys
from launcher.correlate.running import Ended, Wanted
from launcher.correlate.settings import differences
from launcher.correlate.verdict import Agreement
from launcher.discovery.megatron_lm import commits_between
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically
from launcher.translation.table import load_table

_COMMITS = ("mcore", "mlm_source", COMMIT)
"""Options whose values may be commits."""


@dataclass(frozen=True)
class ChangeStep:
    """One change on the way from the left training to the right one."""

    name: str
    apply: Callable[[Training], Training]
    option: str | None = None
    """The option that it changes, by its name in a request."""
    values: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class Tried:
    """A training that was run on the way, and whether it is the same as the first one."""

    name: str
    run: RunDirectory
    verdict: Agreement

    @property
    def differs(self) -> bool:
        """Return whether its losses differ from those of the first one."""
        return self.verdict.first is not None


@dataclass(frozen=True)
class Bisection:
    """What was found."""

    first: str | None
    """The first change with which the trainings differ; None where all of them together make no difference."""
    commit: str | None
    """The first commit with which they differ, where that change is one of commits."""
    before: str | None
    """The change, or the commit, up to which they are the same."""
    others: tuple[str, ...]
    """Changes that were not tried alone, and that make a difference without the first one as well: one is in them."""
    tried: tuple[Tried, ...]
    noise: float

    @property
    def sentence(self) -> str:
        """Return the outcome in a sentence."""
        if self.first is None:
            return "the two agree: there is nothing to look for"
        text = f"the first change that makes a difference is {self.first}"
        if self.commit is not None:
            text += f", and there the commit {self.commit}; {self.before} still agrees"
        if self.others:
            text += f"; without it they differ, too, by one or more of: {', '.join(self.others)}"
        return f"{text} ({len(self.tried)} trainings)"


def bisect(pair: Pair, run: Run, progress: Progress, *, on_cpu: bool, directory: Path) -> Bisection:
    """Run trainings between the two until the first change that makes a difference is known.

    The left training runs twice at first, or as often as the pair says: its noise is the floor of every comparison.
    Raises ConfigError where the two do not differ in anything that could be changed, RequestError, OutsideError.
    """
    search = _Search(pair, run, progress, on_cpu)
    first, steps = steps_of(search.pair)
    if not steps:
        raise ConfigError("the two trainings are the same request: there is nothing to look for", where="--bisect")
    progress.info(f"{len(steps)} changes: {'; '.join(one.name for one in steps)}")
    for one in steps:  # commits between which there is no way are refused before any training
        _commits_of(one, first, directory)
    search.measure(first)
    whole = search.differs("all changes", apply(first, steps))
    if not whole:
        return search.found(None)
    found = search.first_of(first, steps)
    step = steps[found]
    others = [one for one in steps if one is not step]
    rest = others and search.differs(f"all but {step.name}", apply(first, others))
    commit = before = None
    base = apply(first, steps[:found])
    if commits := _commits_of(step, base, directory):
        trainings = [_changed(str(step.option), source)(base) for source in commits]
        at = search.first_where(commits, trainings)
        commit, before = commits[at], commits[at - 1]
    return search.found(step.name, commit, before, tuple(one.name for one in steps[found + 1 :]) if rest else ())


def apply(training: Training, steps: Sequence[ChangeStep]) -> Training:
    """Return the training after these changes."""
    for one in steps:
        training = one.apply(training)
    return training


class _Search:
    def __init__(self, pair: Pair, run: Run, progress: Progress, on_cpu: bool) -> None:
        asked, _, _ = matched(dataclasses.replace(pair, match="none"), on_cpu=on_cpu)
        self.pair = asked
        self._run = run
        self._progress = progress
        self._reference: Sequence[Ended] = ()
        self._tried: list[Tried] = []

    def measure(self, first: Training) -> None:
        """Run the first training as often as its noise needs."""
        request = request_of(self.pair, first)
        self._reference = self._run(
            [Wanted(f"first, run {number + 1}", request) for number in range(self.pair.repeats or 2)]
        )
        for note in self._noise().notes[:1]:
            self._progress.info(note)

    def _noise(self) -> Any:
        return noise_of(self._reference, self._reference)

    def differs(self, name: str, training: Training) -> bool:
        """Run a training; return whether it differs from the first one.

        Raises OutsideError where it does not end, and where its losses show neither that it differs nor that it agrees.
        """
        ended = self._run([Wanted(name, request_of(self.pair, training))])
        noise = noise_of(self._reference, ended)
        left, right = noise.runs[0][0], noise.runs[1][0]
        verdict = judge_runs(left, right, self.pair, noise=noise, expecting=False).verdict
        if verdict.state == "undecided":
            raise OutsideError(f"{name}: undecided: {verdict.sentence}", where=str(right.path))
        self._tried.append(Tried(name, right, verdict))
        self._progress.info(f"{name}: {'differs' if self._tried[-1].differs else 'the same'}")
        return self._tried[-1].differs

    def first_of(self, first: Training, steps: Sequence[ChangeStep]) -> int:
        """Return the index of the first step with which the training differs; with all steps it does."""
        same, other = 0, len(steps)
        while other - same > 1:
            middle = (same + other) // 2
            name = f"the first {middle} of {len(steps)} changes, up to {steps[middle - 1].name}"
            if self.differs(name, apply(first, steps[:middle])):
                other = middle
            else:
                same = middle
        return other - 1

    def first_where(self, names: Sequence[str], trainings: Sequence[Training]) -> int:
        """Return the index of the first training that differs; the first one of all does not, and the last one does."""
        same, other = 0, len(trainings) - 1
        while other - same > 1:
            middle = (same + other) // 2
            if self.differs(names[middle], trainings[middle]):
                other = middle
            else:
                same = middle
        return other

    def found(
        self,
        first: str | None,
        commit: str | None = None,
        before: str | None = None,
        others: tuple[str, ...] = (),
    ) -> Bisection:
        """Return the outcome with all that was tried."""
        return Bisection(first, commit, before, others, tuple(self._tried), self._noise().largest)


# ---- the changes between two trainings


def steps_of(pair: Pair) -> tuple[Training, tuple[ChangeStep, ...]]:
    """Return the training to begin with, and the changes that turn it into the right one: settings, then options.

    Where one side is Megatron-LM's command line and the other one a recipe, it is the right one with the left one's
    settings, and the changes are those settings that it has otherwise.
    """
    left, right = pair.left, pair.right
    if left.is_megatron_lm != right.is_megatron_lm:
        first = like(left, right)
        return first, (*_between_frameworks(first, right), *_options(first, right))
    steps = _words(left, right) if left.is_megatron_lm else _assignments(left, right)
    options = _options(left, right)
    if left.recipe != right.recipe:
        steps = (*steps, ChangeStep(f"recipe: {left.recipe} and {right.recipe}", _recipe(right.recipe)))
    return left, (*steps, *options)


def _recipe(recipe: str) -> Callable[[Training], Training]:
    return lambda training: dataclasses.replace(training, recipe=recipe)


def _between_frameworks(first: Training, right: Training) -> tuple[ChangeStep, ...]:
    """Return a step for each setting; keys that one argument of Megatron-LM sets together are one setting."""
    table = load_table()
    groups: dict[str, dict[str, tuple[Any, Any]]] = {}
    for one in differences(settings(first), settings(right)):
        if one.numbers or one.key.endswith("use_distributed_optimizer"):
            arguments = table.by_key.get(one.key)
            groups.setdefault(arguments[0].name if arguments else one.key, {})[one.key] = (one.left, one.right)

    def step(values: Mapping[str, tuple[Any, Any]]) -> ChangeStep:
        name = ", ".join(f"{key}: {hydra.show(left)} and {hydra.show(other)}" for key, (left, other) in values.items())
        return ChangeStep(
            name, lambda training: with_keys(training, {key: value for key, (_, value) in values.items()})
        )

    return tuple(step(values) for values in groups.values())


def _assignments(left: Training, right: Training) -> tuple[ChangeStep, ...]:
    ours, theirs = ({key_of(text): text for text in side.assignments} for side in (left, right))

    def step(key: str) -> ChangeStep:
        def change(training: Training) -> Training:
            if key in theirs:
                return with_assignments(training, [theirs[key]])
            return dataclasses.replace(
                training, assignments=tuple(text for text in training.assignments if key_of(text) != key)
            )

        shown = [side[key].partition("=")[2] if key in side else "(not given)" for side in (ours, theirs)]
        return ChangeStep(f"{key}: {shown[0]} and {shown[1]}", change)

    return tuple(step(key) for key in dict.fromkeys((*ours, *theirs)) if ours.get(key) != theirs.get(key))


def _words(left: Training, right: Training) -> tuple[ChangeStep, ...]:
    ours, theirs = _arguments(left.words), _arguments(right.words)

    def step(option: str) -> ChangeStep:
        def change(training: Training) -> Training:
            found = _arguments(training.words)
            found.pop(option, None)
            if option in theirs:
                found[option] = theirs[option]
            return dataclasses.replace(training, words=tuple(word for each in found.values() for word in each))

        shown = [" ".join(side.get(option, ("(not given)",))) for side in (ours, theirs)]
        return ChangeStep(f"{shown[0]} and {shown[1]}", change)

    return tuple(step(option) for option in dict.fromkeys((*ours, *theirs)) if ours.get(option) != theirs.get(option))


def _arguments(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each option; of one that is given again the last, which counts."""
    found: dict[str, tuple[str, ...]] = {}
    option = ""
    for word in words:
        if re.match(r"--[a-zA-Z]", word):
            option = word.partition("=")[0]
            found.pop(option, None)
            found[option] = (word,)
        else:
            found[option] = (*found.get(option, ()), word)
    return found


def _options(left: Training, right: Training) -> tuple[ChangeStep, ...]:
    found = []
    for name in sorted({*left.options, *right.options} - {"env"}):
        values = (left.options.get(name), right.options.get(name))
        if values[0] != values[1]:
            text = f"{name}: {_shown(values[0])} and {_shown(values[1])}"
            found.append(ChangeStep(text, _changed(name, values[1]), name, values))
    if left.commit != right.commit:
        text = f"commit: {_shown(left.commit)} and {_shown(right.commit)}"
        found.append(ChangeStep(text, _changed(COMMIT, right.commit), COMMIT, (left.commit, right.commit)))
    ours, theirs = ({one.partition("=")[0]: one for one in side.options.get("env", ())} for side in (left, right))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            shown = [str(side.get(name, "(not given)")) for side in (ours, theirs)]
            found.append(ChangeStep(f"{ENV}{name}: {shown[0]} and {shown[1]}", _variable(name, theirs.get(name))))
    # A commit is looked for last: it costs the most trainings.
    return tuple(sorted(found, key=lambda one: one.option in _COMMITS))


def _shown(value: Any) -> str:
    return "(not given)" if value is None else str(value)


def _changed(name: str, value: Any) -> Callable[[Training], Training]:
    def change(training: Training) -> Training:
        if name == COMMIT:
            return dataclasses.replace(training, commit=value)
        options = {key: one for key, one in training.options.items() if key != name}
        return dataclasses.replace(training, options=options if value is None else {**options, name: value})

    return change


def _variable(name: str, text: str | None) -> Callable[[Training], Training]:
    def change(training: Training) -> Training:
        kept = [one for one in training.options.get("env", ()) if one.partition("=")[0] != name]
        return dataclasses.replace(
            training, options={**training.options, "env": (*kept, *([text] if text is not None else []))}
        )

    return change


def _commits_of(step: ChangeStep, base: Training, directory: Path) -> tuple[str, ...]:
    """Return the values between the two of a step, oldest first with both ends; none unless they are commits."""
    if step.option not in _COMMITS or not all(isinstance(one, str) for one in step.values):
        return ()
    if step.option != COMMIT:
        return commits_between(*step.values, directory, os.environ)
    sources = [f"{repository_of(base, directory)}@{commit}" for commit in step.values]
    found = commits_between(sources[0], sources[1], directory, os.environ)
    return tuple(source.rpartition("@")[2] for source in found)


def as_object(found: Bisection) -> dict[str, Any]:
    """Return the outcome as JSON has it."""
    return {
        "first": found.first,
        "commit": found.commit,
        "before": found.before,
        "others": list(found.others),
        "noise": found.noise,
        "sentence": found.sentence,
        "tried": [
            {"name": one.name, "run_dir": str(one.run.path), "differs": one.differs, "sentence": one.verdict.sentence}
            for one in found.tried
        ],
    }


def write(found: Bisection, directory: Path) -> None:
    """Write bisect.json into the directory. Raises DiskError."""
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "bisect.json", json.dumps(as_object(found), indent=1) + "\n")
