"""Make one HTML page of a run: how it is doing, plots of its training, what failed, its profiles and its plan.

In a shell:
  launcher page RUN
  launcher page RUN --output /shared/pages/run.html
  launcher page RUN RUN RUN

Of several runs it shows the numbers, the curves over each other, and the settings that differ.

The page is one file that needs no network; it shows the runs as they are now.
"""

import argparse

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher page`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="+", help=RUN_HELP), "runs")
    add("--output", metavar="FILE", help="write it there (default: page.html in the run directory, comparison.html)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Make the page and print its path."""
    if len(parsed.runs) > 1:
        from launcher.correlate.runs_page import write_runs_page

        path = write_runs_page(parsed.runs, parsed.output, run_root=parsed.run_root)
    else:
        from launcher.api.page import make_page

        path = make_page(parsed.runs[0], run_root=parsed.run_root, output=parsed.output)
    if parsed.json:
        print_json({"version": 1, "page": str(path)})
    else:
        info(f"page: {path}")
    return 0
