"""Print or follow the log of a rank: of a failed run the first failing rank's, else rank 0's."""

import argparse
import sys

from launcher.cli.completion import complete
from launcher.cli.finding import add_run_root, find
from launcher.cli.output import say, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher logs`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help="a directory, a run id, or a name's newest run"), "runs")
    add("-f", "--follow", action="store_true", help="wait for more until the attempt has ended")
    add("--rank", metavar="N", help="this rank, or `all` with its number before each line")
    add("--attempt", metavar="N", help="this attempt (default: the newest)")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print on standard output, so that it can be searched."""
    from launcher._util.shell import LocalShell
    from launcher.report.profiles.listing import missing_lines
    from launcher.watch.logs import find_attempt, follow_logs, print_logs

    run = find(parsed.run, parsed.run_root)
    if parsed.follow:
        follow_logs(run, sys.stdout, LocalShell(), rank=parsed.rank, attempt=parsed.attempt, say=say)
    else:
        print_logs(run, sys.stdout, rank=parsed.rank, attempt=parsed.attempt)
    found = find_attempt(run, parsed.attempt)
    for line in missing_lines(found.result if found else None):
        warn(line)
    return 0
