"""The report of `launcher doctor`, as a table and as JSON."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.contract.checks import VERDICTS, Check, worst
from launcher.doctor.node_reports import NodeReport

_MOST_COLUMNS = 6
_WORDS = {"ok": "", "skip": "skip", "warn": "WARN", "fail": "FAIL"}
_COLOURS = {"warn": "yellow", "fail": "red", "skip": "dim"}

Paint = Callable[[str, str], str]


@dataclass(frozen=True)
class DoctorReport:
    """All checks of the login node and the compute nodes."""

    cluster: str
    host: str
    login: tuple[Check, ...]
    nodes: tuple[NodeReport, ...] = ()
    not_checked: str | None = None
    """Why the requested node checks are missing or incomplete; None if they are complete."""
    run_dir: str | None = None

    def counts(self) -> dict[str, int]:
        """Count the checks by verdict."""
        everything = (self.login, *(report.checks for report in self.nodes))
        counted = Counter(check.verdict for checks in everything for check in checks)
        return {verdict: counted[verdict] for verdict in VERDICTS}

    def to_dict(self) -> dict[str, Any]:
        """Return the object of --json."""
        return {
            "version": 1,
            "cluster": self.cluster,
            "login": {"host": self.host, "checks": [check.to_dict() for check in self.login]},
            "nodes": [report.to_dict() for report in self.nodes],
            "not_checked": self.not_checked,
            "run_dir": self.run_dir,
            "counts": self.counts(),
        }


def table_lines(found: DoctorReport, paint: Paint, *, with_skipped: bool = False) -> list[str]:
    """Return the lines of the report: tables, findings with remedies, and a summary.

    What could not be checked, or does not exist here, is one line that names it; `with_skipped` shows it in the tables
    and gives each reason. `paint(text, style)` adds a colour to a text.
    """
    where = f"login node {found.host}, profile {found.cluster}"
    login: list[list[Any]] = [[check.name, check] for check in found.login]
    shown = [where, *_table(["CHECK", ""], login if with_skipped else _without_skipped(login), paint)]
    if found.nodes:
        columns = _columns(found.nodes)
        names = list(dict.fromkeys(check.name for report in found.nodes for check in report.checks))
        rows: list[list[Any]] = [[name, *(_of(report, name) for report in columns)] for name in names]
        rows = rows if with_skipped else _without_skipped(rows)
        shown += ["", *_table(["CHECK", *(report.node for report in columns)], rows, paint)]
    shown += ["", *_findings(found, paint), *(_skipped if with_skipped else _names_of_skipped)(found, paint)]
    if found.not_checked:
        shown.append(f"{paint('the checks are incomplete:', 'red')} {found.not_checked}")
    return [*shown, summary(found)]


def summary(found: DoctorReport) -> str:
    """Return a line with the number of checks by verdict."""
    counts = found.counts()
    nodes = f"{len(found.nodes)} {'node' if len(found.nodes) == 1 else 'nodes'} and " if found.nodes else ""
    return (
        f"{nodes}the login node: {counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed, "
        f"{counts['skip']} not checked"
    )


def _without_skipped(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Return the rows in which something was found."""
    return [row for row in rows if any(each and (each.verdict != "skip" or each.value) for each in row[1:])]


def _of(report: NodeReport, name: str) -> Check | None:
    return next((check for check in report.checks if check.name == name), None)


def _columns(reports: Sequence[NodeReport]) -> list[NodeReport]:
    """Return one column for each node; of many nodes, those with findings, and one column for all others."""
    if len(reports) <= _MOST_COLUMNS:
        return list(reports)
    bad = [report for report in reports if worst([check.verdict for check in report.checks]) in ("warn", "fail")]
    shown = bad[:_MOST_COLUMNS]
    rest = [report for report in reports if report not in shown]
    if not rest:
        return shown
    together: dict[str, list[Check]] = {}
    for report in rest:
        for check in report.checks:
            together.setdefault(check.name, []).append(check)
    return [*shown, NodeReport(f"{len(rest)} others", tuple(_one(checks) for checks in together.values()))]


def _one(checks: Sequence[Check]) -> Check:
    """Return the worst of one check on many nodes, with its value if all nodes have the same."""
    bad = max(checks, key=lambda check: VERDICTS.index(check.verdict))
    same = len({check.value for check in checks}) == 1
    value = bad.value if same else "ok" if bad.verdict == "ok" else ""
    return Check(bad.name, bad.verdict, value, None, bad.reason, bad.remedy)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], paint: Paint) -> list[str]:
    cells = [[_cell(each) for each in row] for row in rows]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]
    shown = [paint("  ".join(title.ljust(width) for title, width in zip(head, widths, strict=True)).rstrip(), "bold")]
    for row, texts in zip(rows, cells, strict=True):
        padded = []
        for each, text, width in zip(row, texts, widths, strict=True):
            colour = _COLOURS.get(each.verdict) if isinstance(each, Check) else None
            space = " " * (width - len(text))
            padded.append(f"{paint(text, colour) if colour else text}{space}")
        shown.append("  ".join(padded).rstrip())
    return [line for line in shown if line]


def _cell(each: Check | str | None) -> str:
    if each is None:
        return "-"
    if isinstance(each, str):
        return each
    return f"{_WORDS[each.verdict]} {each.value}".strip() or "ok"


def _everywhere(found: DoctorReport) -> list[tuple[str, Check]]:
    login = [("login", check) for check in found.login]
    return [*login, *((report.node, check) for report in found.nodes for check in report.checks)]


def _findings(found: DoctorReport, paint: Paint) -> list[str]:
    """Return the lines about failures, then warnings; nodes with the same finding share a line."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for verdict in ("fail", "warn"):
        for where, check in _everywhere(found):
            if check.verdict == verdict:
                grouped.setdefault((verdict, check.name, check.reason, check.remedy), []).append(where)
    shown = []
    for (verdict, name, reason, remedy), places in grouped.items():
        shown.append(f"{paint(_WORDS[verdict], _COLOURS[verdict])} {_named(places)}, {name}: {reason}")
        shown.append(f"     {remedy}")
    return shown


def _names_of_skipped(found: DoctorReport, paint: Paint) -> list[str]:
    names = list(dict.fromkeys(check.name for _, check in _everywhere(found) if check.verdict == "skip"))
    if not names:
        return []
    return [paint(f"not checked, or not there: {', '.join(names)} (--skipped says why)", "dim")]


def _skipped(found: DoctorReport, paint: Paint) -> list[str]:
    grouped: dict[str, dict[str, list[str]]] = {}
    for where, check in _everywhere(found):
        if check.verdict == "skip":
            grouped.setdefault(check.reason, {}).setdefault(where, []).append(check.name)
    shown = []
    for reason, places in grouped.items():
        by_names: dict[str, list[str]] = {}
        for where, names in places.items():
            by_names.setdefault(", ".join(names), []).append(where)
        shown += [paint(f"skip {_named(where)}, {names}: {reason}", "dim") for names, where in by_names.items()]
    return shown


def _named(places: Sequence[str]) -> str:
    more = len(places) - _MOST_COLUMNS
    return ", ".join(places[:_MOST_COLUMNS]) + (f" and {more} others" if more > 0 else "")
