"""What each node's ranks have left, put together: one list of checks for each node."""

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
    """One node's findings; `facts` are what should be the same on all nodes."""

    node: str
    checks: tuple[Check, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The node for --json."""
        return {"node": self.node, "facts": dict(self.facts), "checks": [check.to_dict() for check in self.checks]}


def reports(ran: DoctorRun, ranks_per_node: int, nodes: int) -> tuple[NodeReport, ...]:
    """One report for each node of the run, and for each that Slurm has taken away meanwhile."""
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
    found += [NodeReport(name, (_taken(node),)) for name, node in lost.items()]
    return compared(found)


def read_records(directory: Path) -> dict[int, dict[str, Any]]:
    """What each rank has left; a file that is none is as good as missing."""
    found = {}
    for path in sorted(directory.glob("[0-9]*.json")):
        try:
            value = json.loads(path.read_text())
            found[int(value["rank"])] = value
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _names_in(records: Mapping[int, Mapping[str, Any]], ranks_per_node: int) -> tuple[str, ...]:
    named = {rank // ranks_per_node: str(record.get("node")) for rank, record in records.items()}
    return tuple(named.get(index, f"node {index}") for index in range(max(named, default=-1) + 1))


def _report(
    name: str, records: Mapping[int, Mapping[str, Any]], words: Mapping[int, str], lost: Node | None
) -> NodeReport:
    first = ok("node", "in use") if lost is None else _taken(lost)
    checks = merged({rank: _checks(record) for rank, record in records.items()})
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
            continue
    return found


def _taken(node: Node) -> Check:
    reason = f"Slurm has taken the node away: {node.state}{f', {node.reason}' if node.reason else ''}"
    remedy = (
        "what the prolog or the health check of the site says stands in slurmd's log on the node; leave it out "
        "(--exclude) until it is repaired and resumed (scontrol update nodename=NODE state=resume)"
    )
    return fail("node", node.state, reason, remedy)


def ranks_check(there: int, words: Mapping[int, str]) -> Check:
    """Whether every rank of the node came to the end of its checks. `words`: the last ones of those that did not."""
    total = there + len(words)
    if not words:
        return ok("ranks", f"{there} of {total}", there)
    rank, said = next(iter(words.items()))
    return fail(
        "ranks",
        f"{there} of {total}",
        f"rank {', '.join(map(str, words))} left no record; the last words of rank {rank}: {said or 'none'}",
        "a node that does not see the run's directory, or whose container does not start, says so in these words; "
        "leave it out (--exclude) until it does",
        there,
    )


def _words(attempt: Attempt, rank: int) -> str:
    """The last of its own log, else what srun says of its task, else of anything."""
    own, srun = attempt.log(rank), attempt.srun_log
    if words := last_line(own):
        return words
    said = srun.read_text(errors="replace").splitlines() if srun.is_file() else []
    return next((line for line in reversed(said) if re.search(rf"\btasks? {rank}\b", line)), last_line(srun))


def merged(by_rank: Mapping[int, Sequence[Check]]) -> list[Check]:
    """The checks of a node: of those that several ranks made, the worst, and of equals the slowest."""
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


def compared(found: Sequence[NodeReport]) -> tuple[NodeReport, ...]:
    """The reports, each with what distinguishes its node from most of the others."""
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
    """Whether kernel, driver, GPU and programs are those of the other nodes."""
    if nodes < 2:
        return skip("alike", "one node alone has nothing to be compared with")
    own = {key: facts.get(key, "none") for key in usual}
    other = [f"{key} is {own[key]}, elsewhere {value}" for key, value in usual.items() if own[key] != value]
    if not other:
        return ok("alike", f"{len(usual)} facts")
    return warn(
        "alike",
        f"{len(other)} differ",
        "; ".join(other),
        "nodes of one job should be installed alike: leave the odd one out (--exclude), or update it",
        len(other),
    )
