"""The check of a job's nodes before the step of the ranks, where the job holds spare ones: a program of two parts.

    node_check.py look EXPECTED RANKS            on each node; one JSON line about it
    node_check.py choose ATTEMPT_DIR N NODE ...  once, from those lines: prints the N nodes that train, one a line

It runs on the host and needs the standard library alone. The first part is the doctor's checks of the machine. The
second one writes node_check.json, and prints nothing where fewer than N nodes have passed.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from launcher.contract.files import read_lines, write_json
from launcher.contract.paths import AttemptPaths
from launcher.contract.records.nodes import CheckedNode, NodeCheck
from launcher.job.doctor import expected as expectations
from launcher.job.doctor import program
from launcher.job.errors import UserError

_SHOWN = 80
"""Characters of the reason of a failed check: srun passes on whole lines of at most about 1,000."""
_CHECKS_SHOWN = 8


def look(expected: expectations.Expected, ranks: int) -> dict[str, object]:
    """Return what is said of this node: the checks that failed, by name, with what was found and why."""
    found = program.Findings()
    program.look_at_machine(expected, found, ranks)
    failed = [check for check in found.checks if check.verdict == "fail"]
    words = {check.name: f"{check.value}: {check.reason}"[:_SHOWN] for check in failed[:_CHECKS_SHOWN]}
    return {"node": program.node_name(), "failed": words}


def choose(nodes: Sequence[str], said: Mapping[str, Mapping[str, str]], needed: int, now: float) -> NodeCheck:
    """Return which of the nodes train: the first `needed`, in this order, that have passed; none where too few have.

    `said` holds the failed checks of each node that has answered. A check that failed on all of at least two nodes
    points at none of them: the site, the profile or the step is the cause.
    """
    failed = [set(said[node]) for node in nodes if node in said]
    common = set.intersection(*failed) if len(failed) > 1 else set[str]()
    one = next((said[node] for node in nodes if node in said), {})
    checked: list[CheckedNode] = [
        {
            "node": node,
            "answered": node in said,
            "failed": {name: why for name, why in said.get(node, {}).items() if name not in common},
        }
        for node in nodes
    ]
    passed = [each["node"] for each in checked if each["answered"] and not each["failed"]]
    return {
        "version": 1,
        "time": now,
        "needed": needed,
        "chosen": passed[:needed] if len(passed) >= needed else [],
        "nodes": checked,
        "everywhere": {name: one[name] for name in one if name in common},
    }


def read_said(path: Path) -> dict[str, dict[str, str]]:
    """Return the failed checks of each node that has answered. A line that was cut does not count."""
    try:
        lines = read_lines(path)
    except OSError:
        return {}
    found = dict[str, dict[str, str]]()
    for line in lines:
        node, failed = line.get("node"), line.get("failed")
        if isinstance(node, str) and isinstance(failed, dict):
            found[node] = {str(name): str(why) for name, why in failed.items()}
    return found


def main(arguments: Sequence[str]) -> int:
    """Run one of the two parts; 1 where too few nodes have passed, 2 where nothing can be said."""
    try:
        if arguments[:1] == ["look"]:
            _, text, ranks = arguments
            print(json.dumps(look(expectations.parse(text), int(ranks))), flush=True)
            return 0
        _, directory, needed, *nodes = arguments
        attempt = AttemptPaths(Path(directory))
        said = read_said(attempt.node_check_lines)
        if not said:  # the step itself has failed: nothing is known of any node
            raise ValueError("no node has answered")
        record = choose(nodes, said, int(needed), time.time())
    except (UserError, ValueError) as error:
        print(f"node check: {error}", file=sys.stderr)
        return 2
    write_json(attempt.node_check, record)
    print(*record["chosen"], sep="\n")
    return 0 if record["chosen"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
