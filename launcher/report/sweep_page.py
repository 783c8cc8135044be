"""The page of a sweep, or of several side by side: a table to sort and filter, parallel coordinates, step times."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, RequestError
from launcher.report.page import plots
from launcher.report.page.content import Block, Facts, Plot, Section, Table, Text, facts, text_of
from launcher.report.page.overview import format_time
from launcher.report.page.render import plotly_js, render
from launcher.rundir.run_directory import write_atomically

_MOST_LINES = 1000
"""Points in the parallel coordinates: the best ones; more would be a grey surface."""

_MOST_BOXES = 40
_MOST_STEPS = 8
_SHADES = ("#1a8060", "#2878c4", "#8a6d12", "#c2540f", "#c4475a")
"""From the best fifth of the points to the worst."""


@dataclass(frozen=True)
class PointRow:
    """One trial of a sweep, as plain values."""

    number: int
    name: str
    values: tuple[tuple[str, str], ...]
    """What varies, as text."""
    state: str
    reason: str | None
    reward: float | None
    metrics: tuple[tuple[str, float], ...]
    runs: tuple[str, ...] = ()
    measured: tuple[float, ...] = ()
    """The first metric of each run."""
    steps: tuple[tuple[int, float], ...] = ()
    """Iterations and their times in seconds, of the first run."""


@dataclass(frozen=True)
class SweepData:
    """A sweep, as far as its page shows it."""

    name: str
    directory: str
    metric: str
    sentence: str
    """Which point is the best, and how sure that is."""
    rows: tuple[PointRow, ...]


def write_sweep_page(sweeps: Sequence[SweepData], path: Path, *, now: float) -> Path:
    """Write the page of one or several sweeps and return its path. Raises RequestError, DiskError."""
    if path.exists() and not path.is_file():
        raise RequestError("this is not a file", where=str(path), hint="--output names the file of the page.")
    title = " and ".join(sweep.name for sweep in sweeps)
    html = render(f"Sweep {title}", sections(sweeps), made=format_time(now), plotly=plotly_js())
    try:
        write_atomically(path, html)
    except DiskError as error:
        raise DiskError(error.message, where=error.where, hint="--output FILE writes the page elsewhere.") from error
    return path


def sections(sweeps: Sequence[SweepData]) -> tuple[Section, ...]:
    """Return the sections that have something to show."""
    made = (
        Section("overview", "Overview", tuple(block for sweep in sweeps for block in _overview(sweep, len(sweeps)))),
        Section("points", "Points", (_table(sweeps),)),
        Section("coordinates", "Parallel coordinates", tuple(_coordinates(sweeps))),
        Section("steps", "Step times", tuple(_steps(sweeps))),
        Section("failures", "What failed", tuple(_failures(sweeps))),
    )
    return tuple(section for section in made if section.blocks)


def _overview(sweep: SweepData, count: int) -> list[Block]:
    states = {
        state: sum(row.state == state for row in sweep.rows) for state in sorted({row.state for row in sweep.rows})
    }
    shown: Facts = facts(
        *([("Sweep", sweep.name)] if count > 1 else []),
        ("Points", ", ".join(f"{number} {state}" for state, number in sorted(states.items()))),
        ("Compared by", sweep.metric),
        ("Best", sweep.sentence),
        ("Directory", sweep.directory),
    )
    return [shown]


def _table(sweeps: Sequence[SweepData]) -> Table:
    axes = _axes(sweeps)
    several = len(sweeps) > 1
    metrics = list(dict.fromkeys(name for sweep in sweeps for row in sweep.rows for name, _ in row.metrics))
    columns = (
        *(("sweep",) if several else ()),
        "trial",
        "point",
        *axes,
        "state",
        *metrics,
        "spread %",
        "runs",
        "reason",
    )
    rows = []
    for sweep in sweeps:
        for row in sweep.rows:
            values, measured = dict(row.values), dict(row.metrics)
            rows.append(
                (
                    *((sweep.name,) if several else ()),
                    str(row.number),
                    row.name,
                    *(values.get(axis, "") for axis in axes),
                    row.state,
                    *(text_of(measured.get(name), ".6g") for name in metrics),
                    text_of(_spread_percent(row.measured), ".2f"),
                    str(len(row.runs)),
                    row.reason or "",
                )
            )
    return Table("All points", columns, tuple(rows), frozenset(("trial", *metrics, "spread %", "runs")), sortable=True)


def _spread_percent(measured: Sequence[float]) -> float | None:
    mean = statistics.fmean(measured) if len(measured) > 1 else 0.0
    return statistics.stdev(measured) / abs(mean) * 100 if mean else None


def _coordinates(sweeps: Sequence[SweepData]) -> list[Block]:
    """Draw each finished point as a line over its axes and its reward, coloured by its rank.

    Plotly's own parallel coordinates evaluate text as a program, which the page's policy forbids.
    """
    axes = [axis for axis in _axes(sweeps) if len({dict(row.values).get(axis) for row in _rows(sweeps)}) > 1]
    ranked = sorted(
        ((sweep, row) for sweep in sweeps for row in sweep.rows if row.reward is not None and row.state == "finished"),
        key=lambda pair: -(pair[1].reward or 0.0),
    )
    if len(ranked) < 2 or not axes:
        return []
    drawn = ranked[:_MOST_LINES]
    scales = [_Scale.of(axis, [dict(row.values).get(axis, "") for _, row in drawn]) for axis in axes]
    results = [_metric(sweep, row) for sweep, row in drawn]
    low, high = min(results), max(results)
    groups: dict[str, list[_DrawnPoint]] = {}
    for index, ((sweep, row), result) in enumerate(zip(drawn, results, strict=True)):
        name = sweep.name if len(sweeps) > 1 else f"fifth {index * 5 // len(drawn) + 1} of 5"
        groups.setdefault(name, []).append(_DrawnPoint(sweep, row, (result - low) / ((high - low) or 1.0)))
    colours = plots.COLOURS if len(sweeps) > 1 else _SHADES
    traces = [
        _trace(name, lines, scales, colours[index % len(colours)]) for index, (name, lines) in enumerate(groups.items())
    ]
    traces.reverse()  # the best ones on top
    left_out = f" The best {len(drawn)} of {len(ranked)} points are drawn." if len(drawn) < len(ranked) else ""
    words = f"Each line is a point; on the right is its {sweeps[0].metric}.{left_out}"
    layout = _coordinate_layout(scales, sweeps[0].metric, low, high)
    return [Plot("Parallel coordinates", tuple(traces), layout, words)]


def _trace(name: str, lines: Sequence["_DrawnPoint"], scales: Sequence["_Scale"], colour: str) -> dict[str, Any]:
    """Return the lines of one group as one trace of Plotly's, with a gap behind each."""
    x: list[Any] = []
    y: list[Any] = []
    words: list[Any] = []
    for line in lines:
        values = dict(line.row.values)
        x += [*range(len(scales) + 1), None]
        y += [*(scale.share(values.get(scale.axis, "")) for scale in scales), line.share, None]
        shown = [f"{scale.axis}={values.get(scale.axis, '')}" for scale in scales]
        shown.append(f"{line.sweep.metric} {_metric(line.sweep, line.row):.6g}")
        words += [*(plots.label(f"{text}, {line.row.name}") for text in shown), None]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plots.label(name),
        "x": x,
        "y": y,
        "text": words,
        "hovertemplate": "%{text}<extra></extra>",
        "connectgaps": False,
        "line": {"color": colour, "width": 1},
        "marker": {"size": 4},
        "opacity": 0.75,
    }


def _coordinate_layout(scales: Sequence["_Scale"], metric: str, low: float, high: float) -> dict[str, Any]:
    """Return the layout with an upright axis, and the values on it, for each scale, and for the metric on the right."""
    marks = [(place, share, plots.label(text)) for place, scale in enumerate(scales) for text, share in scale.ticks()]
    marks += [(len(scales), share, f"{value:.4g}") for value, share in ((low, 0.0), (high, 1.0))]
    places = [*(scale.axis for scale in scales), metric]
    return {
        **plots.plain_layout(460, legend=True),
        "xaxis": {
            "tickvals": list(range(len(places))),
            "ticktext": [plots.label(name) for name in places],
            "range": [-0.1, len(places) - 0.5],
            "showgrid": True,
        },
        "yaxis": {"visible": False, "range": [-0.08, 1.08]},
        "annotations": [
            {"x": place, "y": share, "text": text, "showarrow": False, "xanchor": "left", "xshift": 6}
            for place, share, text in marks
        ],
    }


@dataclass(frozen=True)
class _DrawnPoint:
    """A point that is drawn, and where its result lies between the worst and the best."""

    sweep: SweepData
    row: PointRow
    share: float


@dataclass(frozen=True)
class _Scale:
    """Where the values of an axis lie between 0 and 1: numbers in order, texts as they come."""

    axis: str
    order: tuple[str, ...]

    @classmethod
    def of(cls, axis: str, values: Sequence[str]) -> "_Scale":
        distinct = list(dict.fromkeys(values))
        try:
            distinct.sort(key=float)
        except ValueError:
            distinct.sort()
        return cls(axis, tuple(distinct))

    def share(self, value: str) -> float:
        return self.order.index(value) / max(1, len(self.order) - 1)

    def ticks(self) -> list[tuple[str, float]]:
        """Return at most eleven values with their places."""
        step = max(1, -(-len(self.order) // 11))
        return [(value, self.share(value)) for value in self.order[::step]]


def _steps(sweeps: Sequence[SweepData]) -> list[Block]:
    """Draw how step times spread for each point, and over the iterations of the best ones."""
    timed = [(sweep, row) for sweep in sweeps for row in sweep.rows if row.steps]
    timed.sort(key=lambda pair: (pair[1].reward is None, -(pair[1].reward or 0.0)))
    if not timed:
        return []
    boxes = tuple(
        {
            "type": "box",
            "name": plots.label(_title(sweep, row, len(sweeps))),
            "y": [seconds for _, seconds in row.steps],
            "boxpoints": False,
            "marker": {"color": plots.COLOURS[sweeps.index(sweep) % len(plots.COLOURS)]},
            "hoverinfo": "y+name",
        }
        for sweep, row in timed[:_MOST_BOXES]
    )
    layout = plots.plain_layout(420, legend=False)
    layout["yaxis"] = {"title": {"text": "seconds"}, "rangemode": "tozero", "automargin": True}
    layout["xaxis"] = {"automargin": True, "type": "category"}
    left_out = f" The best {_MOST_BOXES} of {len(timed)} are drawn." if len(timed) > _MOST_BOXES else ""
    found: list[Block] = [
        Plot("Step times of each point", boxes, layout, f"Median, quartiles and range of the first run.{left_out}")
    ]
    series = [(_title(sweep, row, len(sweeps)), list(row.steps)) for sweep, row in timed[:_MOST_STEPS]]
    words = f"The best {len(series)} points, first run." if len(timed) > len(series) else "The first run of each point."
    found.append(plots.lines("Step time over the iterations", "seconds", series, description=words, what="point"))
    return found


def _failures(sweeps: Sequence[SweepData]) -> list[Block]:
    bad = [
        (sweep, row)
        for sweep in sweeps
        for row in sweep.rows
        if row.state in ("failed", "cancelled", "refused", "pruned")
    ]
    if not bad:
        return []
    rows = tuple(
        (_title(sweep, row, len(sweeps)), row.state, row.reason or "", row.runs[0] if row.runs else "")
        for sweep, row in bad
    )
    return [
        Text(f"{len(rows)} points have no result."),
        Table("Points without a result", ("point", "state", "reason", "run"), rows, sortable=True),
    ]


def _axes(sweeps: Sequence[SweepData]) -> list[str]:
    return list(dict.fromkeys(key for row in _rows(sweeps) for key, _ in row.values))


def _rows(sweeps: Sequence[SweepData]) -> list[PointRow]:
    return [row for sweep in sweeps for row in sweep.rows]


def _metric(sweep: SweepData, row: PointRow) -> float:
    return dict(row.metrics).get(sweep.metric, 0.0)


def _title(sweep: SweepData, row: PointRow, count: int) -> str:
    text = " ".join(f"{key}={value}" for key, value in row.values)
    text = text if len(text) <= 48 else f"{text[:45]}..."
    return f"{sweep.name}: {text}" if count > 1 else text
