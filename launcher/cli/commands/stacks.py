"""Show what the ranks of a run are doing now: their Python stacks, equal ones together, the odd ones first.

In a shell:
  launcher stacks RUN
  launcher stacks RUN --rank 12

By py-spy where the image has it and the node lets it look, else each rank writes the stack of its main thread itself.
The run goes on. Of a run that was ended as a hang the stacks are in its directory: attempts/NNN/stacks.
"""

import argparse
import sys

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import coloured, print_json, say, warn
from launcher.cli.parser import whole_number

_SHOWN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher stacks`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help=RUN_HELP), "runs")
    add("--rank", metavar="N", type=whole_number, help="of this rank alone (default: all)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print the stacks; return 3 where a rank did not answer."""
    from launcher.api.attach import read_stacks
    from launcher.watch.attach import grouped

    found = read_stacks(parsed.run, rank=parsed.rank, run_root=parsed.run_root)
    silent = [one["rank"] for one in found.dumps if one["by"] is None]
    if parsed.json:
        print_json({"version": 1, "ranks": list(found.dumps), "missing": list(found.missing), "problem": found.problem})
    else:
        for number, (dumps, text) in enumerate(grouped(found.dumps)):
            ranks = ", ".join(f"{one['rank']} on {one['host']}" for one in dumps[:_SHOWN])
            more = f" and {len(dumps) - _SHOWN} more" if len(dumps) > _SHOWN else ""
            by = f" ({dumps[0]['by']})" if dumps[0]["by"] else ""
            head = f"rank{'' if len(dumps) == 1 else 's'} {ranks}{more}{by}"
            say(f"{chr(10) if number else ''}{coloured(head, 'bold', sys.stdout)}")
            say(text.rstrip() if text else f"no stack: {dumps[0]['problem']}")
    if found.missing:
        ranks = ", ".join(map(str, found.missing[:_SHOWN]))
        warn(f"no answer of rank {ranks}{f': {found.problem}' if found.problem else ''}")
    return 3 if found.missing or silent else 0
