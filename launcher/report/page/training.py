"""The section of plots over iterations."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.report.page import plots
from launcher.report.page.content import Block, Plot, Subject
from launcher.report.page.metrics import Series, read_series, thin

LIMIT = 3000
"""Points of one plot, over all attempts; more cannot be told apart on a screen, and make the page slow."""

_LEAST = 4
"""Of one attempt, however many there are."""

_FAR = 4.0
"""Times the median, beyond which a duration is left outside the plot."""


@dataclass(frozen=True)
class Metric:
    """A number of metrics.jsonl and how it is plotted."""

    name: str
    title: str
    unit: str
    least: float = float("-inf")
    """Where no value reaches this, there is no plot."""
    from_zero: bool = False
    cut: bool = False
    """Whether a few values far above the others may lie outside, so that the others are seen."""


METRICS = (
    Metric("loss", "Loss", "loss"),
    Metric("seconds", "Time of an iteration", "seconds", from_zero=True, cut=True),
    # On a CPU it is a number without a meaning.
    Metric("tflops_per_gpu", "TFLOP/s per GPU", "TFLOP/s per GPU", least=0.05, from_zero=True),
    Metric("grad_norm", "Gradient norm", "gradient norm"),
)


def training(subject: Subject) -> Sequence[Block]:
    """A plot for each number that the attempts have recorded."""
    attempts = [read_series(attempt, [metric.name for metric in METRICS]) for attempt in subject.run.attempts()]
    found = (plot_of(metric, [series[metric.name] for series in attempts]) for metric in METRICS)
    return [plot for plot in found if plot is not None]


def plot_of(metric: Metric, attempts: Sequence[Series]) -> Plot | None:
    """One number of all attempts; None if there is nothing to draw."""
    series = [each for each in attempts if each.points]
    values = [value for each in series for _, value in each.points]
    if not values or max(values) < metric.least:
        return None
    drawn = [(each.attempt, thin(each.points, _share(each, len(values)))) for each in series]
    top = _top(values) if metric.cut else None
    says = [*_extremes(series), *_not_finite(attempts), *_beyond(series, top)]
    count = sum(len(points) for _, points in drawn)
    if count < len(values):
        says.append(f"{count} of {len(values)} points are drawn: of each stretch the lowest and the highest.")
    if len(drawn) > len(plots.COLOURS):
        says.append(f"{len(drawn)} attempts, one colour after the other; pointing at a line names its attempt.")
    return plots.lines(metric.title, metric.unit, drawn, says=" ".join(says), from_zero=metric.from_zero, top=top)


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


def _not_finite(series: Sequence[Series]) -> list[str]:
    strange = [iteration for each in series for iteration in each.strange]
    if not strange:
        return []
    times = "once" if len(strange) == 1 else f"in {len(strange)} iterations"
    return [f"It was no finite number {times}, first in iteration {strange[0]}."]


def _beyond(series: Sequence[Series], top: float | None) -> list[str]:
    if top is None:
        return []
    beyond = sum(value > top for each in series for _, value in each.points)
    lie = "iteration lies" if beyond == 1 else "iterations lie"
    return [f"{beyond} {lie} above the plot; a double click on it shows all."]
