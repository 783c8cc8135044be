"""Node reports: the records of all ranks, combined into one list of checks for each node."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.contract.checks import VERDICTS, Check, fail, from_dict, ok, skip, warn
from launcher.doctor.job import DoctorRun, last_line
from launcher.rundir import Attempt
from launcher.slurm.nodes import Node


@dataclass(frozen=True)
class NodeReport:
    """The checks of one node; `facts` holds values that should be equal on all nodes."""

    node: str
    checks: tuple[Check, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for --json."""
        return {"node": self.node, "facts": dict(self.facts), "checks": [check.to_dict() for check in self.checks]}


def collect_reports(ran: DoctorRun, ranks_per_node: int, nodes: int) -> tuple[NodeReport, ...]:
    """Return one report for each node of the run, and for each that Slurm has taken out of service meanwhile."""
    attempt = ran.run.latest_attempt()
    left = read_records(attempt.doctor) if attempt else {}
    names = ran.nodes or _names_in(left, ranks_per_node)
    lost = {node.name: node for node in ran.lost}
    found = []
    for index in range(min(nodes, len(names)) if attempt else 0):
        ranks = range(index * ranks_per_node, (index + 1) * ranks_per_node)
        records = {rank: left[rank] for rank in ranks if rank in left}
        words = {rank: _words(attempt, rank) for rank in ranks if rank not in left} if attempt else {}
        found.append(_report(names[index], records, words, lost.pop(names[index], None)))
    found += [NodeReport(name, (_lost_check(node),)) for name, node in lost.items()]
    return compare_nodes(found)


def read_records(directory: Path) -> dict[int, dict[str, Any]]:
    """Return the record of each rank by its number; an unreadable record counts as missing."""
    found = {}
    for path in sorted(directory.glob("[0-9]*.json")):
        try:
            value = json.loads(path.read_text())
            found[int(value["rank"])] = value
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the report names the ranks without a record
    return found


def _names_in(records: Mapping[int, Mapping[str, Any]], ranks_per_node: int) -> tuple[str, ...]:
    named = {rank // ranks_per_node: str(record.get("node")) for rank, record in records.items()}
    return tuple(named.get(index, f"node {index}") for index in range(max(named, default=-1) + 1))


def _report(
    name: str, records: Mapping[int, Mapping[str, Any]], words: Mapping[int, str], lost: Node | None
) -> NodeReport:
    first = ok("node", "in use") if lost is None else _lost_check(lost)
    checks = merge_ranks({rank: _checks(record) for rank, record in records.items()})
    facts: dict[str, str] = {}
    for record in records.values():
        facts |= record.get("facts") or {}
    return NodeReport(name, (first, ranks_check(len(records), words), *checks), facts)


def _checks(record: Mapping[str, Any]) -> list[Check]:
    found = []
    for value in record.get("checks") or ():
        try:
            found.append(from_dict(value))
        except (ValueError, TypeError, AttributeError):
            continue  # a node of another release wrote it, or one that ended while it wrote
    return found


def _lost_check(node: Node) -> Check:
    reason = f"Slurm has taken the node out of service: {node.state}{f', {node.reason}' if node.reason else ''}"
    remedy = (
        "read slurmd's log on the node for messages of the prolog or health check; exclude the node (--exclude) until "
        "it is repaired and resumed (scontrol update nodename=NODE state=resume)"
    )
    return fail("node", node.state, reason, remedy)


def ranks_check(there: int, words: Mapping[int, str]) -> Check:
    """Check that every rank of the node has finished its checks.

    `there` counts the ranks that have; `words` holds the last log line of each that has not.
    """
    total = there + len(words)
    if not words:
        return ok("ranks", f"{there} of {total}", there)
    rank, last_words = next(iter(words.items()))
    return fail(
        "ranks",
        f"{there} of {total}",
        f"rank {', '.join(map(str, words))} left no record; the last line of rank {rank}'s log: {last_words or 'none'}",
        "the line shows whether the node cannot read the run's directory or cannot start the container; exclude the "
        "node (--exclude) until that is repaired",
        there,
    )


def _words(attempt: Attempt, rank: int) -> str:
    """Return the last line of a rank's log, else of srun's messages about its task, else of srun's log."""
    own, srun = attempt.log(rank), attempt.srun_log
    if words := last_line(own):
        return words
    last_words = srun.read_text(errors="replace").splitlines() if srun.is_file() else []
    return next((line for line in reversed(last_words) if re.search(rf"\btasks? {rank}\b", line)), last_line(srun))


def merge_ranks(by_rank: Mapping[int, Sequence[Check]]) -> list[Check]:
    """Merge the checks of all ranks of a node: for each check the worst verdict, among equal ones the slowest."""
    grouped: dict[str, list[tuple[int, Check]]] = {}
    for rank, checks in sorted(by_rank.items()):
        for check in checks:
            grouped.setdefault(check.name, []).append((rank, check))
    return [_worst(several) for several in grouped.values()]


def _worst(several: Sequence[tuple[int, Check]]) -> Check:
    rank, check = max(several, key=lambda pair: (VERDICTS.index(pair[1].verdict), -(pair[1].number or 0.0)))
    if len(several) == 1 or check.verdict in ("ok", "skip"):
        return check
    return replace(check, reason=f"rank {rank}: {check.reason}")


def compare_nodes(found: Sequence[NodeReport]) -> tuple[NodeReport, ...]:
    """Return the reports, each with a check of whether its node equals most of the others."""
    with_facts = [report for report in found if report.facts]
    keys = sorted({key for report in with_facts for key in report.facts})
    usual = {key: Counter(report.facts.get(key, "none") for report in with_facts).most_common(1)[0][0] for key in keys}
    return tuple(
        replace(report, checks=(*report.checks, alike_check(report.facts, usual, len(with_facts))))
        if report.facts
        else report
        for report in found
    )


def alike_check(facts: Mapping[str, str], usual: Mapping[str, str], nodes: int) -> Check:
    """Check that kernel, driver, GPU and programs equal those of most nodes, in `usual`."""
    if nodes < 2:
        return skip("alike", "there is no other node to compare with")
    own = {key: facts.get(key, "none") for key in usual}
    other = [f"{key} is {own[key]}, elsewhere {value}" for key, value in usual.items() if own[key] != value]
    if not other:
        return ok("alike", ", ".join(usual))
    return warn(
        "alike",
        f"{len(other)} differ",
        "; ".join(other),
        "all nodes of a job should have the same software: exclude this one (--exclude), or update it",
        len(other),
    )
