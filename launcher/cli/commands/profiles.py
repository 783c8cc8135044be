"""Show what was captured of a run with a profiler: files, steps, ranks, whether they are sound, and what is in them."""

import argparse
import sys

from launcher.cli.completion import complete
from launcher.cli.finding import add_run_root, find
from launcher.cli.output import print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher profiles`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help="a directory, a run id, or a name's newest run"), "runs")
    add("--attempt", metavar="N", help="this attempt (default: all)")
    add(
        "--summary",
        action="store_true",
        help="show per rank how the steps' time was spent (communication, exposed, idle), and the longest kernels",
    )
    add("--top", metavar="N", type=int, default=10, help="with --summary: so many kernels or calls (default: 10)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """List or summarise; 1 where an expected capture is missing or not sound."""
    from launcher._util.shell import LocalShell
    from launcher.report.profiles.listing import list_profiles
    from launcher.report.profiles.tables import summarise, write_list, write_summary

    shell = LocalShell()
    run = find(parsed.run, parsed.run_root)
    listed = list_profiles(run, shell, attempt=parsed.attempt)
    summaries = summarise(listed, shell, count=parsed.top) if parsed.summary else ()
    if parsed.json:
        values = [one.to_dict() for one in summaries or listed]
        print_json({"version": 1, "run": str(run.path), "profiles": values})
    elif not listed:
        say("nothing was captured yet: the run has not begun")
    elif parsed.summary:
        write_summary(summaries, sys.stdout)
    else:
        write_list(listed, sys.stdout)
    return 1 if any(one.sound is False for one in listed) else 0
