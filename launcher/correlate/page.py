"""One HTML page of a comparison: the verdict, both loss curves, their difference, and what differs."""

import time
from pathlib import Path

from launcher.contract import values as hydra
from launcher.correlate.compare import Comparison, iterations_table, table_of
from launcher.report.page import plots
from launcher.report.page.content import Block, Section, Table, Text, facts
from launcher.report.page.overview import format_time
from launcher.report.page.render import plotly_js, render
from launcher.rundir.run_directory import write_atomically


def write_page(found: Comparison, path: Path) -> None:
    """Write the page. Raises RequestError where Plotly is not installed, DiskError."""
    title = f"{found.left.name} and {found.right.name}"
    html = render(title, sections(found), made=format_time(time.time()), plotly=plotly_js())
    write_atomically(path, html)


def sections(found: Comparison) -> list[Section]:
    """Return the parts of the page."""
    verdict = found.verdict
    first = verdict.first
    outcome: list[Block] = [
        Text(f"{verdict.state}: {verdict.sentence}", "plain" if verdict.is_agreement else "warning"),
        facts(
            ("compared", f"iterations {verdict.compared[0]} to {verdict.compared[1]}" if verdict.compared else None),
            ("largest difference of losses", f"{verdict.largest:.3e}" if verdict.largest is not None else None),
            (
                "first difference",
                f"iteration {first.iteration}, {first.metric}: {first.left}, {first.right}" if first else None,
            ),
            ("first stage", f"{verdict.stage}: {verdict.cause}" if verdict.stage else None),
        ),
        *(Text(note) for note in verdict.notes),
    ]
    curves = [
        (one.name, [(point.iteration, point.loss) for point in one.points if point.loss is not None])
        for one in (found.left, found.right)
    ]
    others = dict(curves[1][1])
    apart = [(at, others[at] - loss) for at, loss in curves[0][1] if at in others]
    drawn: list[Block] = [
        plots.lines("Loss", "loss", curves),
        plots.lines("Difference of the losses", "right - left", [("difference", apart)]),
    ]
    numbers, steps = table_of(found), iterations_table(found.left.points, found.right.points)
    settings = [
        (one.key, hydra.show(one.left), hydra.show(one.right), "numbers" if one.numbers else "")
        for one in verdict.differences
    ]
    variables = [(name, left or "", right or "") for name, left, right in found.environment]
    sides = (found.left.name, found.right.name)
    parts = [
        Section("verdict", "Verdict", tuple(outcome)),
        Section("losses", "Losses", tuple(drawn)),
        Section(
            "numbers", "Numbers", (Table("", ("", *numbers[0][1:]), tuple(numbers[1:]), frozenset(numbers[0][1:])),)
        ),
        Section("iterations", "Iterations", (Table("", steps[0], tuple(steps[1:]), frozenset(steps[0][1:])),)),
        Section("settings", "Settings that differ", (Table("", ("key", *sides, "changes"), tuple(settings)),)),
    ]
    if variables:
        parts.append(Section("environment", "Environment", (Table("", ("variable", *sides), tuple(variables)),)))
    return parts
