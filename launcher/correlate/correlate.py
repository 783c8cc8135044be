"""Running two trainings with matched settings, and judging whether they are the same."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher._util import toml
from launcher._util.errors import ConfigError, OutsideError
from launcher._util.user_paths import user_path
from launcher.api.progress import Progress
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.contract import values as hydra
from launcher.correlate import verdict as verdicts
from launcher.correlate.compare import Comparison, Side, compare_sides, side_of
from launcher.correlate.history import history_of, read_log
from launcher.correlate.plot import losses_png
from launcher.correlate.probes import first_stage, read_probes
from launcher.correlate.settings import Difference, apply_overrides, differences, layout_difference
from launcher.correlate.verdict import Agreement, judge
from launcher.discovery.recipe import MLM
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically
from launcher.translation.table import load_table
from launcher.translation.translate import override_text, to_bridge, to_mlm, values_of

Match = Literal["left", "right", "none"]
"""Whose settings both get: the left side's, the right side's, or each its own."""


@dataclass(frozen=True)
class Training:
    """One side as it is asked for."""

    recipe: str
    assignments: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Megatron-LM's arguments."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of this side alone, by their names in a request."""

    @property
    def is_megatron_lm(self) -> bool:
        """Return whether it is a command line of Megatron-LM."""
        return self.recipe.startswith(MLM)


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
    repeats: int = 1
    """How often the left side runs, for the noise floor."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of both runs, by their names in a request."""


@dataclass(frozen=True)
class Correlation:
    """The outcome of a pair."""

    comparison: Comparison
    stated: tuple[Difference, ...]
    """The settings that differed as the two were given, before they were matched."""
    directory: Path
    """Where verdict.json, losses.png and page.html lie."""
    noise: float | None = None


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
        right = _like(left, right)
    elif pair.match == "right":
        left = _like(right, left)
    dropout = pair.dropout
    if dropout is None and on_cpu:
        dropout = 0.0
        notes.append("dropout is 0 on both sides: on CPU one generator serves dropout and everything else")
    if dropout is not None:
        left, right = (
            _with(one, {"model.hidden_dropout": dropout, "model.attention_dropout": dropout}) for one in (left, right)
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


def _like(model: Training, other: Training) -> Training:
    """Return the other training with the model's settings; its own options stay.

    What the other one states and the model leaves to a default is set to that default.
    """
    found = _translated(model, other)
    rest = [one for one in differences(settings(model), settings(found)) if one.numbers and one.left is not None]
    return _with(found, {one.key: one.left for one in rest}) if rest else found


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


def _with(training: Training, values: Mapping[str, Any]) -> Training:
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
    return _with(training, {"logger.log_interval": 1})


# ---- running


def run_pair(
    pair: Pair,
    run: Callable[[Request], RunDirectory],
    progress: Progress,
    *,
    on_cpu: bool,
    output: Path | None = None,
) -> Correlation:
    """Run both sides, one after the other, with `run`, and judge them. Raises RequestError, OutsideError."""
    asked, stated, notes = matched(pair, on_cpu=on_cpu)
    for one in stated:
        if one.numbers:
            progress.info(f"differs as given: {one.text}")
    for note in notes:
        progress.info(note)
    runs = [run(request_of(asked, side)) for side in (asked.left, asked.right)]
    repeats = [run(request_of(asked, asked.left)) for _ in range(pair.repeats - 1)]
    noise = verdicts.noise([history_of(one) for one in (runs[0], *repeats)]) if repeats else None
    found = judge_runs(runs[0], runs[1], asked, noise=noise, notes=notes)
    directory = output or runs[1].path / "correlation"
    correlation = Correlation(found, stated, directory, noise)
    write(correlation)
    return correlation


def request_of(pair: Pair, side: Training) -> Request:
    """Return the request of one side. Raises ConfigError."""
    stated: dict[str, Any] = {**pair.options, **side.options, "recipe": side.recipe}
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
    noise: float | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Return the comparison of two runs that have ended, with the verdict. Raises OutsideError without losses."""
    sides = (side_of(left), side_of(right))
    for side in sides:
        if not side.points:
            raise OutsideError(f"{side.name} has recorded no iteration", hint=f"launcher logs {side.name}")
    found = compare_sides(*sides)
    tolerance = max(pair.tolerance, 2 * noise if noise else 0.0)
    stage, more = _stage(left, right, sides, dropout=pair.dropout != 0)
    verdict = judge(
        sides[0].points,
        sides[1].points,
        differences=found.settings,
        tolerance=tolerance,
        not_comparable=_not_comparable(sides),
        stage=stage,
    )
    verdict = dataclasses.replace(verdict, notes=(*notes, *more, *_noise_note(noise)))
    return dataclasses.replace(found, verdict=_only_the_log(left, right, verdict))


def _noise_note(noise: float | None) -> tuple[str, ...]:
    return () if noise is None else (f"repeats of the left side differ by at most {noise:.1e}, which is its noise",)


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


def write(correlation: Correlation) -> None:
    """Write verdict.json, losses.png and page.html into the directory. Raises DiskError."""
    directory, found = correlation.directory, correlation.comparison
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "verdict.json", json.dumps(as_object(correlation), indent=1, default=str) + "\n")
    (directory / "losses.png").write_bytes(losses_png(found.left.points, found.right.points))
    from launcher.correlate.page import write_page

    write_page(found, directory / "page.html")


def as_object(correlation: Correlation) -> dict[str, Any]:
    """Return the outcome as JSON has it."""
    from launcher.correlate.compare import as_object as comparison_object

    return {
        **comparison_object(correlation.comparison),
        "differed_as_given": [
            {"key": one.key, "left": one.left, "right": one.right, "numbers": one.numbers} for one in correlation.stated
        ],
        "noise": correlation.noise,
        "directory": str(correlation.directory),
    }
