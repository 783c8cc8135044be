"""Make one HTML page of a run: how it is doing, plots of its training, what failed, its profiles and its plan.

The page is one file that needs no network; it shows the run as it is now.
"""

import argparse
from pathlib import Path

from launcher.cli.completion import complete
from launcher.cli.finding import add_run_root, find
from launcher.cli.output import print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher page`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help="a directory, a run id, or a name's newest run"), "runs")
    add("--output", metavar="FILE", help="write it there (default: page.html in the run directory)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Make the page and say where it is."""
    from launcher._util.shell import LocalShell
    from launcher.report.page.render import write_page

    run = find(parsed.run, parsed.run_root)
    path = write_page(run, LocalShell(), Path(parsed.output).expanduser() if parsed.output else None)
    if parsed.json:
        print_json({"version": 1, "page": str(path)})
    else:
        say(f"page: {path}")
    return 0
