"""Show what was captured of a run with a profiler: files, steps, ranks, whether they are sound, and what is in them.

In a shell:
  launcher profiles RUN
  launcher profiles RUN --summary          communication, exposed, idle, top kernels
"""

import argparse
import sys

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json
from launcher.cli.parser import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher profiles`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help=RUN_HELP), "runs")
    add("--attempt", metavar="N", help="this attempt (default: all)")
    add(
        "--summary",
        action="store_true",
        help="show per rank how the steps' time was spent (communication, exposed, idle), and the longest kernels",
    )
    add("--top", metavar="N", type=count, default=10, help="with --summary: so many kernels or calls (default: 10)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print the list or the summaries. Return 1 where an expected capture is missing or broken."""
    from launcher.api.profiles import read_profiles
    from launcher.report.profiles.tables import write_list, write_summary

    found = read_profiles(
        parsed.run, run_root=parsed.run_root, attempt=parsed.attempt, summary=parsed.summary, top=parsed.top
    )
    if parsed.json:
        values = [one.to_dict() for one in found.summaries or found.listed]
        print_json({"version": 1, "run": str(found.run.path), "profiles": values})
    elif not found.listed:
        info("nothing was captured yet: the run has not begun")
    elif parsed.summary:
        write_summary(found.summaries, sys.stdout)
    else:
        write_list(found.listed, sys.stdout)
    return 0 if found.sound else 1
