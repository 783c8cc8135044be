"""The section with plots over iterations, tokens or time."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.contract.files import read_lines
from launcher.report.page import plots
from launcher.report.page.content import Block, Controls, Plot, Subject, Text
from launcher.report.page.metrics import LIMIT, Curve, Curves, read_stretches
from launcher.rundir import Attempt
from launcher.watch.progress_state import number

_FAR = 4.0
"""Multiple of the median above which a duration lies outside the plot."""

_VALIDATION = "lm loss"
"""The name of the loss among those of an evaluation."""

_HOUR = 3600.0


@dataclass(frozen=True)
class Metric:
    """A metric of metrics.jsonl, and how it is plotted."""

    name: str
    title: str
    unit: str
    least: float = float("-inf")
    """There is no plot if no value reaches this."""
    from_zero: bool = False
    cut: bool = False
    """Whether a few values far above the others may lie outside the plot, so that the others stay distinguishable."""
    scale: float = 1.0
    """What a value is multiplied with for its unit."""


TFLOPS = Metric("tflops_per_gpu", "TFLOP/s per GPU", "TFLOP/s per GPU", least=0.05, from_zero=True)
"""On a CPU the value has no meaning."""

METRICS = (
    Metric("loss", "Loss", "loss"),
    Metric("learning_rate", "Learning rate", "learning rate"),
    Metric("grad_norm", "Gradient norm", "gradient norm"),
    Metric("seconds", "Time of an iteration", "seconds", from_zero=True, cut=True),
    Metric("tokens_per_second", "Tokens per second", "tokens per second", from_zero=True),
    TFLOPS,
    Metric("memory_bytes", "Most memory of a GPU", "GiB", from_zero=True, scale=1 / (1 << 30)),
)
NAMES = tuple(metric.name for metric in METRICS)


@dataclass(frozen=True)
class Line:
    """The curves of one attempt with a name, and the axes over which they can be drawn."""

    name: str
    curves: Curves
    axes: Mapping[str, Sequence[float | None]]
    """Of each stretch the tokens and hours since the run began, where they are known."""
    evaluations: Sequence[tuple[int, float]] = ()
    """Iterations and their validation losses."""
    colour: int | None = None
    """Of the run, where several are compared; lines of one colour share an entry of the legend."""


def training(subject: Subject) -> Sequence[Block]:
    """Return a plot for each metric that the attempts have recorded."""
    lines = lines_of(subject.run.attempts())
    peak = number(subject.run.plan, "peak_tflops")
    found = [plot for metric in metrics_with(peak) if (plot := plot_of(metric, lines)) is not None]
    if not found:
        return ()
    notes = [] if peak or all(plot.title != TFLOPS.title for plot in found) else [Text(_NO_PEAK)]
    return [Controls("Plots", axes=axes_of(lines)), *found, *notes]


_NO_PEAK = (
    "MFU is unknown: the cluster profile does not state `peak_tflops`, the dense bf16 peak of one GPU, so there is "
    "nothing to compare TFLOP/s with."
)


def metrics_with(peak: float | None) -> tuple[Metric, ...]:
    """Return the metrics, with MFU where the peak of a GPU is known."""
    if not peak:
        return METRICS
    mfu = replace(TFLOPS, title="MFU", unit=f"% of {peak:g} TFLOP/s", scale=100 / peak)
    at = METRICS.index(TFLOPS) + 1
    return (*METRICS[:at], mfu, *METRICS[at:])


def lines_of(attempts: Sequence[Attempt], limit: int = LIMIT) -> list[Line]:
    """Read the attempts of one run: together at most about `limit` stretches, tokens and hours since its beginning."""
    read = [(attempt, read_stretches(attempt, NAMES, limit)) for attempt in attempts]
    total = sum(stretches.lines for _, stretches in read)
    lines: list[Line] = []
    begin: float | None = None
    for attempt, stretches in read:
        if not stretches.lines:
            continue
        begin = stretches.begin if begin is None else begin
        stretches.thin(max(2, limit * stretches.lines // total))
        curves = stretches.curves(attempt.name)
        lines.append(Line(attempt.name, curves, _axes(curves, lines, begin), _evaluations(attempt)))
    return lines


def _axes(curves: Curves, before: Sequence[Line], begin: float | None) -> dict[str, list[float | None]]:
    axes: dict[str, list[float | None]] = {}
    offset = _tokens_before(curves, before)
    if offset is not None and None not in curves.tokens:
        axes["tokens"] = [offset + tokens for tokens in curves.tokens if tokens is not None]
    if begin is not None and None not in curves.times:
        axes["hours"] = [round((time - begin) / _HOUR, 5) for time in curves.times if time is not None]
    return axes


def _tokens_before(curves: Curves, before: Sequence[Line]) -> float | None:
    """Return how many tokens the run had seen when an attempt began; None where no earlier attempt shows that."""
    if not before:
        return 0.0
    for line in reversed(before):
        at = at_iteration(line, (curves.first or 0) - 1, "tokens")
        if at is not None:
            return at
    return None


def at_iteration(line: Line, iteration: int, axis: str) -> float | None:
    """Return where an iteration lies on another axis, between the stretches around it; None outside of them."""
    values, iterations = line.axes.get(axis), line.curves.iterations
    if values is None or not iterations or iteration > iterations[-1] or iteration < (line.curves.first or 0):
        return None
    right = bisect.bisect_left(iterations, iteration)
    end = values[right]
    if right == 0 or end is None or iterations[right] == iteration:
        return end
    start = values[right - 1]
    share = (iteration - iterations[right - 1]) / (iterations[right] - iterations[right - 1])
    return None if start is None else start + share * (end - start)


def _evaluations(attempt: Attempt) -> list[tuple[int, float]]:
    found = []
    for event in read_lines(attempt.timeline):
        losses, iteration = event.get("losses"), number(event, "iteration")
        if event.get("event") == "evaluation" and isinstance(losses, dict) and iteration is not None:
            loss = number(losses, _VALIDATION)
            if loss is not None:
                found.append((int(iteration), loss))
    return found


def axes_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return the axes that every line has."""
    return tuple(axis for axis in ("tokens", "hours") if lines and all(axis in line.axes for line in lines))


def plot_of(metric: Metric, lines: Sequence[Line], *, what: str = "attempt") -> Plot | None:
    """Return the plot of one metric of all lines; None if there is nothing to draw."""
    drawn = [line for line in lines if line.curves.of[metric.name].count]
    curves = [line.curves.of[metric.name] for line in drawn]
    if not curves or max(value for curve in curves if curve.highest for value in curve.highest[:1]) < metric.least:
        return None
    top = _top(curves) if metric.cut else None
    description = [
        *_extremes(metric, curves),
        *_not_finite_sentences([line.curves.of[metric.name] for line in lines]),
        *_beyond(drawn, metric, top),
        *_thinned(drawn),
    ]
    if (count := len({line.name for line in drawn})) > len(plots.COLOURS):
        description.append(
            f"{count} {what}s, which share {len(plots.COLOURS)} colours; point at a line to see its {what}."
        )
    series = [
        series
        for index, line in enumerate(drawn)
        for series in _series(metric, line, index if line.colour is None else line.colour, what)
    ]
    return plots.curves(
        metric.title,
        metric.unit,
        series,
        description=" ".join(description),
        from_zero=metric.from_zero,
        top=top,
        legend=1 < count <= len(plots.COLOURS) or any(each.points for each in series),
        what=what,
    )


def _series(metric: Metric, line: Line, index: int, what: str) -> list[plots.Series]:
    curve, curves = line.curves.of[metric.name], line.curves
    wide = curves.width > 1
    scaled = {name: _scaled(getattr(curve, name), metric.scale, wide) for name in ("mean", "low", "high")}
    found = [
        plots.Series(
            line.name,
            curves.iterations,
            scaled["mean"],
            colour=index,
            hover=f"{what} {line.name}",
            band=(scaled["low"], scaled["high"]) if wide else None,
            axes=line.axes,
        )
    ]
    if metric.name == "loss" and line.evaluations:
        at = [iteration for iteration, _ in line.evaluations]
        axes = {axis: [at_iteration(line, iteration, axis) for iteration in at] for axis in line.axes}
        found.append(
            plots.Series(
                f"validation, {line.name}",
                at,
                [loss for _, loss in line.evaluations],
                colour=index,
                hover=f"validation, {what} {line.name}",
                axes=axes,
                points=True,
            )
        )
    return found


def _scaled(values: Sequence[float | None], scale: float, wide: bool) -> list[float | None]:
    if scale == 1 and not wide:
        return list(values)
    return [None if value is None else float(f"{value * scale:.7g}") for value in values]


def _top(curves: Sequence[Curve]) -> float | None:
    medians = [curve.median for curve in curves if curve.median is not None]
    limit = _FAR * sorted(medians)[len(medians) // 2]
    highest = max(curve.highest[0] for curve in curves if curve.highest)
    return limit if highest > limit > 0 else None


def _extremes(metric: Metric, curves: Sequence[Curve]) -> list[str]:
    low = min(curve.lowest for curve in curves if curve.lowest)
    high = max((curve.highest for curve in curves if curve.highest), key=lambda found: found[0])
    last = curves[-1].last
    named = [("Lowest", low), ("highest", high), *([("last", last)] if last else [])]
    return [", ".join(f"{name} {value * metric.scale:.5g} (iteration {at})" for name, (value, at) in named) + "."]


def _not_finite_sentences(curves: Sequence[Curve]) -> list[str]:
    count = sum(curve.not_finite for curve in curves)
    first = next((curve.first_not_finite for curve in curves if curve.not_finite), None)
    if not count:
        return []
    times = "once" if count == 1 else f"in {count} iterations"
    return [f"It was not finite {times}, first in iteration {first}."]


def _beyond(lines: Sequence[Line], metric: Metric, top: float | None) -> list[str]:
    if top is None:
        return []
    beyond = sum(value is not None and value > top for line in lines for value in line.curves.of[metric.name].high)
    unit = "iteration" if all(line.curves.width == 1 for line in lines) else "point"
    lie = f"{unit} lies" if beyond == 1 else f"{unit}s lie"
    return [f"{beyond} {lie} above the plot; double-click it to show all."]


def _thinned(lines: Sequence[Line]) -> list[str]:
    wide = [line for line in lines if line.curves.width > 1]
    if not wide:
        return []
    widths = sorted({line.curves.width for line in wide})
    of = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    return [f"A point of the line is the mean of {of} iterations, and the band shows their lowest and highest value."]
