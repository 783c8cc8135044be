"""The section with plots over iterations."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.report.page import plots
from launcher.report.page.content import Block, Plot, Subject
from launcher.report.page.metrics import Series, downsample, read_series

LIMIT = 3000
"""Limit of points in one plot, over all attempts; more are indistinguishable on a screen and slow the page down."""

_LEAST = 4
"""Minimum number of points of one attempt."""

_FAR = 4.0
"""Multiple of the median above which a duration lies outside the plot."""


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


METRICS = (
    Metric("loss", "Loss", "loss"),
    Metric("seconds", "Time of an iteration", "seconds", from_zero=True, cut=True),
    # On a CPU the value has no meaning.
    Metric("tflops_per_gpu", "TFLOP/s per GPU", "TFLOP/s per GPU", least=0.05, from_zero=True),
    Metric("grad_norm", "Gradient norm", "gradient norm"),
)


def training(subject: Subject) -> Sequence[Block]:
    """Return a plot for each metric that the attempts have recorded."""
    attempts = [read_series(attempt, [metric.name for metric in METRICS]) for attempt in subject.run.attempts()]
    found = (plot_of(metric, [series[metric.name] for series in attempts]) for metric in METRICS)
    return [plot for plot in found if plot is not None]


def plot_of(metric: Metric, attempts: Sequence[Series]) -> Plot | None:
    """Return the plot of one metric of all attempts; None if there is nothing to draw."""
    series = [each for each in attempts if each.points]
    values = [value for each in series for _, value in each.points]
    if not values or max(values) < metric.least:
        return None
    drawn = [(each.attempt, downsample(each.points, _share(each, len(values)))) for each in series]
    top = _top(values) if metric.cut else None
    description = [*_extremes(series), *_not_finite_sentences(attempts), *_beyond(series, top)]
    count = sum(len(points) for _, points in drawn)
    if count < len(values):
        description.append(f"{count} of {len(values)} points are drawn: the lowest and the highest of each stretch.")
    if len(drawn) > len(plots.COLOURS):
        description.append(
            f"{len(drawn)} attempts, which share {len(plots.COLOURS)} colours; point at a line to see its attempt."
        )
    return plots.lines(
        metric.title, metric.unit, drawn, description=" ".join(description), from_zero=metric.from_zero, top=top
    )


def _share(series: Series, total: int) -> int:
    return max(_LEAST, LIMIT * len(series.points) // total)


def _top(values: Sequence[float]) -> float | None:
    limit = _FAR * statistics.median(values)
    return limit if max(values) > limit > 0 else None


def _extremes(series: Sequence[Series]) -> list[str]:
    points = [point for each in series for point in each.points]
    low, high = (choose(points, key=lambda point: point[1]) for choose in (min, max))
    last = series[-1].points[-1]
    words = [f"{name} {value:.5g} (iteration {at})" for name, (at, value) in (("Lowest", low), ("highest", high))]
    return [f"{', '.join(words)}, last {last[1]:.5g} (iteration {last[0]})."]


def _not_finite_sentences(series: Sequence[Series]) -> list[str]:
    not_finite = [iteration for each in series for iteration in each.not_finite]
    if not not_finite:
        return []
    times = "once" if len(not_finite) == 1 else f"in {len(not_finite)} iterations"
    return [f"It was not finite {times}, first in iteration {not_finite[0]}."]


def _beyond(series: Sequence[Series], top: float | None) -> list[str]:
    if top is None:
        return []
    beyond = sum(value > top for each in series for _, value in each.points)
    lie = "iteration lies" if beyond == 1 else "iterations lie"
    return [f"{beyond} {lie} above the plot; double-click it to show all."]
