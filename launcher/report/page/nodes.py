"""The section about the nodes of the newest attempt: clocks, temperatures, power and errors, as they were sampled."""

from collections.abc import Sequence

from launcher.report.page import plots
from launcher.report.page.content import Block, Plot, Subject, Table, Text, text_of
from launcher.watch.telemetry import SampledNode, Telemetry, columns_of, errors_of, read_telemetry, sentences, shares

_COLUMNS = ("Node", "Samples", "Slowest GPU", "MHz", "Hottest GPU", "°C", "W", "Clocks lowered", "Errors")
_NUMERIC = frozenset({"Samples", "Slowest GPU", "MHz", "Hottest GPU", "°C", "W"})
_LISTED = 64
"""Limit of nodes in the table: the throttled, those with errors and the slowest."""
_DRAWN = 6
"""Limit of nodes in a plot."""
_HOUR = 3600.0

_PLOTS = (
    ("sm_mhz", "Lowest clock of a node's GPUs", "MHz"),
    ("temperature_c", "Highest temperature of a node's GPUs", "°C"),
    ("power_w", "Power of a node's GPUs together", "W"),
    ("network_bytes_per_s", "What a node's adapters move", "bytes per second"),
)


def nodes(subject: Subject) -> Sequence[Block]:
    """Return which nodes stand out, a table of the nodes, and plots of those that stand out."""
    attempt = subject.run.latest_attempt()
    found = read_telemetry(attempt) if attempt else Telemetry(())
    if not found.nodes:
        return ()
    blocks: list[Block] = []
    if words := sentences(found):
        text = f"{'; '.join(words)}."
        wrong = found.throttled or found.with_errors
        blocks.append(Text(f"{text[0].upper()}{text[1:]}", "warning" if wrong else "plain"))
    blocks += [Text(why, "warning") for why in _reasons(found)]
    ordered = sorted(found.nodes, key=_rank)
    rows = tuple(_row(node) for node in ordered[:_LISTED])
    blocks.append(Table("Nodes", _COLUMNS, rows, _NUMERIC, sortable=len(rows) > 1))
    if len(ordered) > _LISTED:
        blocks.append(Text(f"The table shows {_LISTED} of {len(ordered)} nodes, those that stand out first."))
    drawn = _standing_out(found, ordered)
    return [*blocks, *(plot for each in _PLOTS if (plot := _plot(*each, drawn)) is not None)]


def _reasons(found: Telemetry) -> list[str]:
    whys = dict.fromkeys(node.why for node in found.nodes if node.why)
    return [f"GPUs of {sum(node.why == why for node in found.nodes)} nodes were not sampled: {why}." for why in whys]


def _rank(node: SampledNode) -> tuple[float, bool, float]:
    worst = max((share for _, share in node.harmful), default=0.0)
    return (-worst, not (node.uncorrected or node.network_errors), node.busy_mhz or float("inf"))


def _standing_out(found: Telemetry, ordered: Sequence[SampledNode]) -> list[SampledNode]:
    special = [node for node in (found.slowest, found.hottest) if node is not None]
    return list({node.node: node for node in (*special, *ordered)}.values())[:_DRAWN]


def _row(node: SampledNode) -> tuple[str, ...]:
    return (
        node.host,
        str(node.samples),
        text_of(node.slowest_gpu),
        text_of(node.busy_mhz, ".0f"),
        text_of(node.hottest_gpu),
        text_of(node.hottest_c, ".0f"),
        text_of(node.power_w, ",.0f"),
        shares(node.throttled),
        errors_of(node),
    )


def _plot(name: str, title: str, unit: str, drawn: Sequence[SampledNode]) -> Plot | None:
    series = [(node.host, columns_of(node.history, name)) for node in drawn]
    begin = min((points[0][0] for _, points in series if points), default=None)
    if begin is None:
        return None
    hours = [
        (host, [(round((at - begin) / _HOUR, 4), value) for at, value in points]) for host, points in series if points
    ]
    return plots.lines(title, unit, hours, what="node", x="hours of the attempt")
