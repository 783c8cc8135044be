"""Figures as the plain values that Plotly draws. Their colours besides the traces' come from the page's style sheet."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.report.page.content import Plot

COLOURS = ("#2878c4", "#c2540f", "#1a8060", "#a8529f", "#8a6d12", "#5f6bcb", "#c4475a", "#347f8c")
"""Each is told from a light and a dark ground, and carries white text (contrast 4.5 and more)."""

GREY = "#6c737b"

_MARKED = 60
"""Lines of fewer points show each of them: a single one would not be seen at all."""


def label(text: object) -> str:
    """Text for a label: Plotly reads a subset of HTML there, which would swallow the `<float>` of a name."""
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


def lines(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    *,
    says: str = "",
    from_zero: bool = False,
    top: float | None = None,
) -> Plot:
    """Values over iterations, a line for each attempt; the axis ends at `top` where that is given.

    More attempts than colours have no legend: it could not tell them apart, and would take the plot's place.
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
            "hovertemplate": f"iteration %{{x}}: %{{y:.6g}}<extra>attempt {label(name)}</extra>",
        }
        for index, (name, points) in enumerate(series)
    )
    layout = _layout(300, "iteration", unit, legend=1 < len(series) <= len(COLOURS))
    layout["legend"] |= {"title": {"text": "attempt"}}
    layout["yaxis"] |= {"rangemode": "tozero" if from_zero else "normal", "exponentformat": "power"}
    layout["yaxis"] |= {"range": [0, top]} if top else {}
    return Plot(title, data, layout, says, half=True)


def stacked_bars(
    title: str,
    unit: str,
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    colours: Sequence[str] = COLOURS,
    says: str = "",
) -> Plot:
    """A bar for each name, one below the other, of these parts; each part says its share of its bar."""
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
    # Room for a legend of several lines, which narrow screens need; few bars are no thicker than many.
    room = 46 + 28 * len(names)
    layout = _layout(room + 84, unit, "", legend=True)
    # The first name at the top, each name a category even where it looks like a number.
    layout["yaxis"] = {"type": "category", "autorange": "reversed", "automargin": True, "ticklabelstandoff": 8}
    layout["legend"] |= {"traceorder": "normal"}
    layout |= {"barmode": "stack", "bargap": 1 - 22 * len(names) / room, "minreducedheight": 30}
    layout |= {"uniformtext": {"mode": "hide", "minsize": 10}}
    return Plot(title, data, layout, says, still=True)
