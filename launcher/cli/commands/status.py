"""Show runs and how they are doing: the newest ones, or those that are named by directory, run id or name."""

import argparse
import sys
import time

from launcher.cli.completion import complete
from launcher.cli.finding import add_run_root, find, run_root
from launcher.cli.output import print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher status`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="*", help="a directory, a run id, or a name's newest run"), "runs")
    add("--last", metavar="N", type=int, default=20, help="without RUN: how many (default: 20)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Ask Slurm once for all of them, print."""
    from launcher._util.shell import LocalShell
    from launcher.rundir.finding import list_runs
    from launcher.watch.status import status_of
    from launcher.watch.status_table import to_json, write_table

    runs = [find(name, parsed.run_root) for name in parsed.runs]
    if not parsed.runs:
        runs = list_runs(run_root(parsed.run_root))[: parsed.last]
    statuses, answer = status_of(runs, LocalShell())
    if parsed.json:
        print_json(to_json(statuses, answer))
    elif statuses:
        write_table(statuses, sys.stdout, time.time())
    else:
        say(f"no runs in {run_root(parsed.run_root)}; --run-root names another directory")
    return 0
