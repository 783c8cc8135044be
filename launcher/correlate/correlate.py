"""Running two trainings with matched settings, and judging whether they are the same."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher._util import toml
from launcher._util.errors import ConfigError, OutsideError, RequestError
from launcher._util.user_paths import user_path
from launcher.api.progress import Progress
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.contract import values as hydra
from launcher.correlate import verdict as verdicts
from launcher.correlate.axes import Training as Training
from launcher.correlate.axes import at_commit
from launcher.correlate.compare import Comparison, Side, compare_sides, side_of
from launcher.correlate.history import history_of, read_log
from launcher.correlate.plot import losses_png
from launcher.correlate.probes import first_stage, read_probes
from launcher.correlate.running import Ended, Wanted
from launcher.correlate.settings import Difference, apply_overrides, differences, layout_difference
from launcher.correlate.tolerances import Tolerance, expected_of, sentences
from launcher.correlate.verdict import Agreement, judge
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically
from launcher.translation.table import load_table
from launcher.translation.translate import override_text, to_bridge, to_mlm, values_of

Match = Literal["left", "right", "none"]
"""Whose settings both get: the left side's, the right side's, or each its own."""


@dataclass(frozen=True)
class Pair:
    """Two trainings that are to be the same."""

    left: Training
    right: Training
    match: Match = "left"
    fp32: bool = False
    """Whether both compute in fp32."""
    dropout: float | None = None
    """The dropout of both; None: each its own, and 0 on CPU."""
    probe: bool = False
    tolerance: float = 0.0
    repeats: int | None = None
    """How often each side runs, for the noise floor. None: once, and the left side again where the two differ."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of both runs, by their names in a request."""


@dataclass(frozen=True)
class Noise:
    """How far repeats of one training differ from each other: relative differences of their losses."""

    left: float | None
    right: float | None
    """None where a side ran once."""
    runs: tuple[tuple[RunDirectory, ...], tuple[RunDirectory, ...]]
    """The runs of each side."""
    failed: tuple[str, ...] = ()
    """Repeats that did not finish, and why."""

    @property
    def largest(self) -> float:
        """Return the larger of both."""
        return max(self.left or 0.0, self.right or 0.0)

    @property
    def tolerance(self) -> float:
        """Return the difference between the sides that this noise explains."""
        return 2 * self.largest

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was measured of each side, and what could not be."""
        found = [
            f"{len(runs)} runs of the {side} side "
            + (f"differ by at most {noise:.1e}" if noise else "have the same losses in all recorded digits")
            for side, noise, runs in zip(("left", "right"), (self.left, self.right), self.runs, strict=True)
            if noise is not None
        ]
        return (*found, *self.failed)


@dataclass(frozen=True)
class Correlation:
    """The outcome of a pair."""

    comparison: Comparison
    stated: tuple[Difference, ...]
    """The settings that differed as the two were given, before they were matched."""
    directory: Path
    """Where verdict.json, losses.png and page.html lie."""
    noise: Noise | None = None


def read_pair(text: str, directory: Path) -> Pair:
    """Read a pair from a TOML file: tables `left` and `right`, `options`, and the keys of Pair. Raises ConfigError."""
    path = user_path(text, directory, error=ConfigError)
    try:
        stated = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
    names = {one.name for one in dataclasses.fields(Pair)}
    if unknown := sorted(set(stated) - names):
        raise ConfigError(f"unknown key {unknown[0]}; there are {', '.join(sorted(names))}", where=str(path))
    sides = {}
    for side in ("left", "right"):
        given = stated.get(side)
        if not isinstance(given, dict) or not isinstance(given.get("recipe"), str):
            raise ConfigError(f"needs a table [{side}] with recipe", where=str(path))
        known = {"recipe", "assignments", "arguments"}
        options = {key: value for key, value in given.items() if key not in known}
        sides[side] = Training(
            given["recipe"], tuple(given.get("assignments", ())), tuple(given.get("arguments", ())), options
        )
    if stated.get("match", "left") not in ("left", "right", "none"):
        raise ConfigError("match is left, right or none", where=str(path))
    return Pair(**{**stated, **sides})


# ---- matching


def matched(pair: Pair, *, on_cpu: bool) -> tuple[Pair, tuple[Difference, ...], tuple[str, ...]]:
    """Return the pair with matched settings, the settings that differed before, and notes of what was done.

    On CPU one generator serves dropout and everything else, so there dropout is 0 unless it is given.
    """
    notes: list[str] = []
    stated = differences(settings(pair.left), settings(pair.right))
    left, right = pair.left, pair.right
    if pair.match == "left":
        right = like(left, right)
    elif pair.match == "right":
        left = like(right, left)
    dropout = pair.dropout
    if dropout is None and on_cpu:
        dropout = 0.0
        notes.append("dropout is 0 on both sides: on CPU one generator serves dropout and everything else")
    if dropout is not None:
        left, right = (
            with_keys(one, {"model.hidden_dropout": dropout, "model.attention_dropout": dropout})
            for one in (left, right)
        )
    if pair.fp32:
        left, right = _in_fp32(left), _in_fp32(right)
    if pair.match != "none":
        left, right = _shared_samples(left), _shared_samples(right)
    return dataclasses.replace(pair, left=left, right=right, dropout=dropout), stated, tuple(notes)


def settings(training: Training) -> dict[str, Any]:
    """Return what a training sets, by Bridge's keys, as far as it is known without running it."""
    if training.is_megatron_lm:
        return values_of(training.words)
    table = load_table()
    known = dict(table.recipe) if training.recipe == f"bridge:{table.base}" else {}
    return apply_overrides(known, training.assignments)


def like(model: Training, other: Training) -> Training:
    """Return the other training with the model's settings; its own options stay.

    What the other one states and the model leaves to a default is set to that default.
    """
    found = _translated(model, other)
    rest = [one for one in differences(settings(model), settings(found)) if one.numbers and one.left is not None]
    return with_keys(found, {one.key: one.left for one in rest}) if rest else found


def _translated(model: Training, other: Training) -> Training:
    if model.is_megatron_lm and not other.is_megatron_lm:
        wanted = to_bridge(model.words).words
        keys = {hydra.parse(word).key for word in wanted}
        kept = [text for text in other.assignments if hydra.parse(text).key not in keys]
        return dataclasses.replace(other, assignments=(*kept, *wanted))
    if other.is_megatron_lm and not model.is_megatron_lm:
        words = to_mlm(model.assignments, base=load_table().recipe).words
        return dataclasses.replace(other, words=words)
    return dataclasses.replace(other, assignments=model.assignments, words=model.words)


def with_keys(training: Training, values: Mapping[str, Any]) -> Training:
    """Return the training with settings by Bridge's keys, in the words of its side."""
    texts = [override_text(key, value) for key, value in values.items()]
    if training.is_megatron_lm:
        return dataclasses.replace(training, words=(*training.words, *to_mlm(texts, defaults=False).words))
    keys = set(values)
    kept = [text for text in training.assignments if hydra.parse(text).key not in keys]
    return dataclasses.replace(training, assignments=(*kept, *texts))


def _in_fp32(training: Training) -> Training:
    if training.is_megatron_lm:
        return dataclasses.replace(
            training, words=tuple(word for word in training.words if word not in ("--bf16", "--fp16"))
        )
    gone = ("mixed_precision", "optimizer.bf16", "optimizer.fp16", "model.bf16", "model.fp16")
    kept = [
        text
        for text in training.assignments
        if hydra.parse(text).key.partition("mixed_precision.")[0] not in (*gone, "")
    ]
    return dataclasses.replace(training, assignments=(*kept, "mixed_precision=null", "optimizer.bf16=false"))


def _shared_samples(training: Training) -> Training:
    """Return the training with what decides about its samples spelled out: a log line for each iteration, too."""
    return with_keys(training, {"logger.log_interval": 1})


# ---- running


Run = Callable[[Sequence[Wanted]], Sequence[Ended]]
"""Runs trainings and returns them in the order given, also those that failed."""


def run_pair(
    pair: Pair,
    run: Run,
    progress: Progress,
    *,
    on_cpu: bool,
    output: Path | None = None,
) -> Correlation:
    """Run both sides and their repeats with `run`, and judge them. Raises RequestError, OutsideError.

    Where no number of repeats is given and the two differ, the left side runs once more: a difference that the same
    training has from itself says nothing about the two.
    """
    asked, stated, notes = matched(pair, on_cpu=on_cpu)
    for one in stated:
        if one.numbers:
            progress.info(f"differs as given: {one.text}")
    for note in notes:
        progress.info(note)
    requests = (request_of(asked, asked.left), request_of(asked, asked.right))
    times = pair.repeats or 1
    ended = run([Wanted(_name(side, number), requests[side]) for number in range(times) for side in (0, 1)])
    noise = noise_of(ended[0::2], ended[1::2])
    left, right = noise.runs[0][0], noise.runs[1][0]
    found = judge_runs(left, right, asked, noise=noise, notes=notes)
    if pair.repeats is None and found.verdict.state == "diverged":
        progress.info("the two differ: the left side runs once more, to measure its noise")
        noise = noise_of([*ended[0::2], *run([Wanted(_name(0, 1), requests[0])])], ended[1::2])
        found = judge_runs(left, right, asked, noise=noise, notes=notes)
    directory = output or right.path / "correlation"
    correlation = Correlation(found, stated, directory, noise)
    write(correlation, progress)
    return correlation


def _name(side: int, number: int) -> str:
    return f"{('left', 'right')[side]}{f', repeat {number}' if number else ''}"


def noise_of(left: Sequence[Ended], right: Sequence[Ended]) -> Noise:
    """Return the noise of both sides, from the runs that finished. Raises OutsideError where a side has none."""
    finished = [tuple(one.run for one in side if one.failure is None) for side in (left, right)]
    for runs, side in zip(finished, (left, right), strict=True):
        if not runs:
            raise OutsideError(
                f"one of the two trainings did not finish: {side[0].failure}",
                where=str(side[0].run.path),
                hint=f"launcher logs {side[0].run.path}",
            )
    values = [verdicts.noise([history_of(one) for one in runs]) if len(runs) > 1 else None for runs in finished]
    failed = tuple(
        f"{one.name} did not finish ({one.failure}), and is not part of the noise: {one.run.path}"
        for one in (*left, *right)
        if one.failure is not None
    )
    return Noise(values[0], values[1], (finished[0], finished[1]), failed)


def request_of(pair: Pair, side: Training) -> Request:
    """Return the request of one side. Raises ConfigError, RecipeError, CommandError of git."""
    side = at_commit(side, Path.cwd())
    stated: dict[str, Any] = {**pair.options, **side.options, "recipe": side.recipe}
    stated["env"] = (*pair.options.get("env", ()), *side.options.get("env", ()))
    if side.is_megatron_lm:
        stated["mlm_arguments"] = side.words
    else:
        stated["assignments"] = side.assignments
    if pair.probe:
        stated["probe"] = True
    return parse(Request, stated, where=None)


def judge_runs(
    left: RunDirectory,
    right: RunDirectory,
    pair: Pair,
    *,
    noise: Noise | None = None,
    notes: Sequence[str] = (),
    expecting: bool = True,
) -> Comparison:
    """Return the comparison of two runs that have ended, with the verdict. Raises OutsideError without losses.

    With `expecting` a difference that is expected of the kind of change counts as none (tolerances.py).
    """
    sides = (side_of(left), side_of(right))
    for side in sides:
        if not side.points:
            raise OutsideError(f"{side.name} has recorded no iteration", hint=f"launcher logs {side.name}")
    found = compare_sides(*sides)
    expected = _expected(sides, found.settings) if expecting else ()
    tolerance = max(pair.tolerance, noise.tolerance if noise else 0.0, *(row.relative for row in expected))
    stage, more = _stage(left, right, sides, dropout=pair.dropout != 0)
    verdict = judge(
        sides[0].points,
        sides[1].points,
        differences=found.settings,
        tolerance=tolerance,
        not_comparable=_not_comparable(sides),
        stage=stage,
    )
    said = (*(noise.notes if noise else ()), *sentences(expected))
    verdict = dataclasses.replace(verdict, notes=(*notes, *more, *said))
    return dataclasses.replace(found, verdict=_only_the_log(left, right, verdict))


def _expected(sides: tuple[Side, Side], found: Sequence[Difference]) -> tuple[Tolerance, ...]:
    """Return the kinds of change between two sides of which a difference is expected."""
    keys = ("model.hidden_dropout", "model.attention_dropout")
    dropout = any((side.settings or {}).get(key, 0.1) != 0 for side in sides for key in keys)
    images = {side.image for side in sides}
    return expected_of(found, image=len(images) == 2 and None not in images, dropout=dropout)


def _not_comparable(sides: tuple[Side, Side]) -> str | None:
    """Return why two trainings of other layouts cannot be compared by their losses."""
    left, right = sides[0].settings or {}, sides[1].settings or {}
    layout = layout_difference(left, right)
    if layout is None:
        return None
    loads = [
        values.get("checkpoint.load") or values.get("checkpoint.pretrained_checkpoint") for values in (left, right)
    ]
    if all(loads):
        return None
    return (
        f"the same seed gives other initial weights with another layout ({layout}): start both from one checkpoint, "
        "with dropout 0"
    )


def _stage(
    left: RunDirectory, right: RunDirectory, sides: tuple[Side, Side], *, dropout: bool
) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    probes = read_probes(left), read_probes(right)
    if not all(probes):
        return None, ()
    found, notes = first_stage(*probes, dropout=dropout)
    if found is None:
        return None, notes
    variables = [name for name, _, _ in compare_sides(*sides).environment]
    cause = found.cause
    if variables:
        cause += f"; variables that differ: {', '.join(variables[:5])}"
    if sides[0].megatron_core != sides[1].megatron_core:
        cause += f"; Megatron-Core differs: {sides[0].megatron_core} and {sides[1].megatron_core}"
    return (found.name, cause), notes


def _only_the_log(left: RunDirectory, right: RunDirectory, verdict: Agreement) -> Agreement:
    """Return the verdict with a note where the printed losses differ although the recorded ones agree."""
    if not verdict.is_agreement:
        return verdict
    printed = [_printed_raw(run) for run in (left, right)]
    apart = [at for at in printed[0].keys() & printed[1].keys() if printed[0][at] != printed[1][at]]
    if not apart:
        return verdict
    note = f"only the log differs: what is printed for iteration {min(apart)} is a mean over several iterations"
    return dataclasses.replace(verdict, stage="log", cause=note, notes=(*verdict.notes, note))


def _printed_raw(run: RunDirectory) -> dict[int, str]:
    """Return the losses as a run's logs print them."""
    attempt = run.latest_attempt()
    found: dict[int, str] = {}
    if attempt is None or not attempt.logs.is_dir():
        return found
    for log in sorted(attempt.logs.glob("rank-*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found.update((point.iteration, point.printed_loss) for point in read_log(lines, as_printed=True))
    return found


# ---- the files of a correlation


def write(correlation: Correlation, progress: Progress) -> None:
    """Write verdict.json, losses.png and, where Plotly is installed, page.html into the directory. Raises DiskError."""
    directory, found = correlation.directory, correlation.comparison
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "verdict.json", json.dumps(as_object(correlation), indent=1, default=str) + "\n")
    (directory / "losses.png").write_bytes(losses_png(found.left.points, found.right.points))
    from launcher.correlate.page import write_page

    try:
        write_page(found, directory / "page.html")
    except RequestError as error:
        # The verdict stands without the page.
        progress.warn(f"page.html is not written: {error.message}")


def as_object(correlation: Correlation) -> dict[str, Any]:
    """Return the outcome as JSON has it."""
    from launcher.correlate.compare import as_object as comparison_object

    return {
        **comparison_object(correlation.comparison),
        "differed_as_given": [
            {"key": one.key, "left": one.left, "right": one.right, "numbers": one.numbers} for one in correlation.stated
        ],
        "noise": _noise_object(correlation.noise),
        "tolerance": verdicts.number(correlation.noise.tolerance) if correlation.noise else None,
        "directory": str(correlation.directory),
    }


def _noise_object(noise: Noise | None) -> dict[str, Any] | None:
    if noise is None:
        return None
    return {
        side: {
            "largest_difference": verdicts.number(largest),
            "runs": [
                {"run_dir": str(run.path), "losses": [verdicts.number(one.loss) for one in history_of(run)]}
                for run in runs
            ],
        }
        for side, largest, runs in zip(("left", "right"), (noise.left, noise.right), noise.runs, strict=True)
    } | {"failed": list(noise.failed)}
