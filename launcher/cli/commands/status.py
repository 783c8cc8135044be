"""Show runs and how they are doing: the newest ones, or those that are named by directory, run id or name."""

import argparse
import sys
import time

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json
from launcher.cli.parser import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher status`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="*", help=RUN_HELP), "runs")
    add("--limit", metavar="N", type=count, default=20, help="without RUN: how many (default: 20)")
    add("--all", action="store_true", help="without RUN: those of all your run roots, not only of the one here")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print a table of the runs, or an object."""
    from launcher.api.status import read_statuses
    from launcher.watch.status_table import to_json, write_code, write_histories, write_table

    found = read_statuses(parsed.runs, run_root=parsed.run_root, everywhere=parsed.all, limit=parsed.limit)
    if parsed.json:
        print_json(to_json(found.runs, found.answer))
    elif found.runs:
        write_table(found.runs, sys.stdout, time.time())
        if parsed.runs:
            write_code(found.runs, sys.stdout)
            write_histories(found.runs, sys.stdout)
    else:
        searched = ", ".join(map(str, found.run_roots))
        info(f"no runs in {searched}; --run-root names another directory")
    return 0
