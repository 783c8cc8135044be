"""The program of each rank of `launcher doctor --nodes N`: entrypoint.py and recipe of that run in one file.

It is alone in its directory, because the *.py files beside a recipe travel with it.
"""

import json
import os
import sys
import time
from pathlib import Path

from launcher.contract.files import write_json
from launcher.job import rank, record
from launcher.job.doctor import expected as expectations
from launcher.job.doctor import program
from launcher.job.errors import UserError

_WAIT_S = 0.1


def configure(expected: str) -> expectations.Expected:
    """Return the values that the nodes are compared with, as the launcher wrote them into argv.json."""
    return expectations.parse(expected)


def main() -> int:
    """Run the checks and write their results; the exit status says whether that was possible, not what was found."""
    began = time.time()
    try:
        this = rank.read_rank(os.environ)
        record.refuse_second_start(this)
        arguments = json.loads((this.run_paths.argv_file).read_text(encoding="utf-8"))["arguments"]
        expected = configure(**arguments)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    directory = this.paths.doctor
    directory.mkdir(exist_ok=True)
    found = program.Findings()
    met = directory / f"met-{this.node_rank:04d}.json"
    nodes = this.world_size // this.local_world_size
    if this.local_rank == 0:
        program.look_at_node(this, expected, found, began)
        nodes_met = program.check_across_nodes(this, expected, found)
        write_json(met, {"nodes": nodes_met})
    complete = _nodes_met(met, expected.rendezvous_timeout_s * 4) == nodes
    program.compute_checks(this, expected, found, complete)
    write_json(directory / f"{this.rank:04d}.json", program.record(this, found, began))
    record.write_end(this, record.End("finished"))
    for check in found.checks:
        print(f"{check.verdict:4} {check.name}: {check.value} {check.reason}".rstrip(), flush=True)
    return 0


def _nodes_met(path: Path, timeout_s: float) -> int:
    """Return how many nodes were reached, as the first rank of this node has found."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if path.exists():
            return int(json.loads(path.read_text(encoding="utf-8"))["nodes"])
        time.sleep(_WAIT_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
