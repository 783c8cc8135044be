"""Figures as plain values for Plotly. Colours other than those of the traces come from the page's style sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.report.page.content import Plot

COLOURS = ("#2878c4", "#c2540f", "#1a8060", "#a8529f", "#8a6d12", "#5f6bcb", "#c4475a", "#347f8c")
"""Each is visible on a light and a dark background, and has a contrast of at least 4.5 to white text."""

GREY = "#6c737b"

_MARKED = 60
"""Lines with fewer points show markers, because a single point has no line."""


def label(text: object) -> str:
    """Escape text for a label: Plotly interprets a subset of HTML there, which would remove `<float>` from a name."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _layout(height: int, x: str, y: str, *, legend: bool) -> dict[str, Any]:
    clear = "rgba(0,0,0,0)"
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 36 if legend else 28, "b": 48},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "bgcolor": clear,
            "traceorder": "normal",
        },
        "modebar": {"bgcolor": clear, "color": GREY, "activecolor": COLOURS[0]},
        "xaxis": {"title": {"text": label(x)}, "automargin": True},
        "yaxis": {"title": {"text": label(y)}, "automargin": True},
    }


def plain_layout(height: int, *, legend: bool) -> dict[str, Any]:
    """Return a layout whose axes are still to be given."""
    return _layout(height, "", "", legend=legend)


def lines(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    description: str = "",
    what: str = "attempt",
    x: str = "iteration",
) -> Plot:
    """Return a plot of values over iterations, or what `x` names, with a line for each attempt, or what `what` names.

    With more attempts than colours there is no legend, because it could not distinguish them.
    """
    data = tuple(
        {
            "type": "scatter",
            "mode": "lines+markers" if len(points) < _MARKED else "lines",
            "name": label(name),
            "x": [iteration for iteration, _ in points],
            "y": [value for _, value in points],
            "line": {"color": COLOURS[index % len(COLOURS)], "width": 1.6},
            "marker": {"size": 5},
            "hovertemplate": f"{x} %{{x}}: %{{y:.6g}}<extra>{what} {label(name)}</extra>",
        }
        for index, (name, points) in enumerate(series)
    )
    layout = _layout(300, x, unit, legend=1 < len(series) <= len(COLOURS))
    layout["legend"] |= {"title": {"text": what}}
    layout["yaxis"] |= {"exponentformat": "power"}
    return Plot(title, data, layout, description, half=True)


@dataclass(frozen=True)
class Series:
    """One line of a plot over iterations; None leaves a gap. `colour` counts, the colours come again after the last."""

    name: str
    x: Sequence[int]
    y: Sequence[float | None]
    colour: int = 0
    hover: str = ""
    band: tuple[Sequence[float | None], Sequence[float | None]] | None = None
    """The lowest and the highest value around each point, drawn as an area behind the line."""
    axes: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """What else it can be drawn over."""
    points: bool = False
    """Whether it is drawn as points, such as evaluations between which nothing was measured."""


def curves(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    description: str = "",
    from_zero: bool = False,
    top: float | None = None,
    legend: bool = False,
    what: str = "attempt",
) -> Plot:
    """Return a plot of lines with the areas that their values cover; the axis ends at `top` if that is given."""
    data: list[dict[str, Any]] = []
    axes: list[dict[str, list[float | None]]] = []
    named: set[str] = set()
    for one in series:
        traces = [*_area(one), _line(one)]
        if one.name in named:
            traces[-1]["showlegend"] = False
        named.add(one.name)
        for trace in traces:
            trace["legendgroup"] = label(one.name)
        data += traces
        axes += [{name: list(values) for name, values in one.axes.items()} for _ in traces]
    layout = _layout(300, "iteration", unit, legend=legend)
    layout["legend"] |= {"title": {"text": label(what)}}
    layout["yaxis"] |= {"rangemode": "tozero" if from_zero else "normal", "exponentformat": "power"}
    layout["yaxis"] |= {"range": [0, top]} if top else {}
    return Plot(title, tuple(data), layout, description, half=True, axes=tuple(axes))


def _line(series: Series) -> dict[str, Any]:
    shape = "markers" if series.points else "lines+markers" if len(series.x) < _MARKED else "lines"
    colour = COLOURS[series.colour % len(COLOURS)]
    around, custom = "", {}
    if series.band:
        custom = {"customdata": [[low, high] for low, high in zip(*series.band, strict=True)]}
        around = " (%{customdata[0]:.6g} to %{customdata[1]:.6g})"
    return {
        "type": "scatter",
        "mode": shape,
        "name": label(series.name),
        "x": list(series.x),
        "y": list(series.y),
        "line": {"color": colour, "width": 1.6},
        "marker": {"size": 9, "symbol": "diamond-open", "color": colour} if series.points else {"size": 5},
        "hovertemplate": f"%{{x}}: %{{y:.6g}}{around}<extra>{label(series.hover)}</extra>",
        **custom,
    }


def _area(series: Series) -> list[dict[str, Any]]:
    if series.band is None:
        return []
    colour = COLOURS[series.colour % len(COLOURS)]
    hidden = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    low, high = series.band
    return [
        {**hidden, "x": list(series.x), "y": list(low), "meta": "band"},
        {**hidden, "x": list(series.x), "y": list(high), "meta": "band", "fill": "tonexty", "fillcolor": f"{colour}33"},
    ]


def stacked_bars(
    title: str,
    unit: str,
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    colours: Sequence[str] = COLOURS,
    description: str = "",
) -> Plot:
    """Return a plot with a horizontal bar for each name, stacked from `parts`, with the share of each part."""
    totals = [sum(values) or 1.0 for values in zip(*parts.values(), strict=True)]
    data = tuple(
        {
            "type": "bar",
            "orientation": "h",
            "name": label(part),
            "y": [label(name) for name in names],
            "x": list(values),
            "text": [f"{value / total:.0%}" for value, total in zip(values, totals, strict=True)],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "marker": {"color": colours[index % len(colours)]},
            "hovertemplate": "%{y}: %{x:.4g} (%{text})<extra>" + label(part) + "</extra>",
        }
        for index, (part, values) in enumerate(parts.items())
    )
    # Leave space for a legend of several lines on narrow screens; a few bars are as thin as many.
    bars_height = 46 + 28 * len(names)
    layout = _layout(bars_height + 84, unit, "", legend=True)
    # The first name is at the top, and each name is a category even if it looks like a number.
    layout["yaxis"] = {"type": "category", "autorange": "reversed", "automargin": True, "ticklabelstandoff": 8}
    layout["legend"] |= {"traceorder": "normal"}
    layout |= {"barmode": "stack", "bargap": 1 - 22 * len(names) / bars_height, "minreducedheight": 30}
    layout |= {"uniformtext": {"mode": "hide", "minsize": 10}}
    return Plot(title, data, layout, description, still=True)
