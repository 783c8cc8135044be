"""The section about what evaluations of the run have found."""

from collections.abc import Sequence

from launcher.report.page.content import Block, Subject, Table
from launcher.report.page.overview import format_time
from launcher.watch.evaluations import scores

_COLUMNS = ("Iteration", "Task", "Metric", "Value", "Samples", "Evaluated")
_NUMERIC = frozenset({"Iteration", "Value", "Samples"})


def evaluations(subject: Subject) -> Sequence[Block]:
    """Return a table of the newest value of each metric; no blocks where the run was not evaluated."""
    rows = tuple(
        (str(one.iteration), one.task, one.metric, one.value, one.samples, format_time(one.ended))
        for one in scores(subject.run)
    )
    return [Table("Tasks of lm-evaluation-harness", _COLUMNS, rows, _NUMERIC)] if rows else ()
