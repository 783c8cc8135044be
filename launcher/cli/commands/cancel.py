"""End runs, waiting or running; with --save their ranks write a checkpoint first."""

import argparse

from launcher.cli.completion import complete
from launcher.cli.finding import add_run_root, find
from launcher.cli.output import print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher cancel`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="+", help="a directory, a run id, or a name's newest run"), "runs")
    add("--save", action="store_true", help="ask the ranks to save a checkpoint and stop after this iteration")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Find all of them before ending any."""
    from launcher._util.shell import LocalShell
    from launcher.watch.cancel import cancel_run

    done = {}
    for run in [find(name, parsed.run_root) for name in parsed.runs]:
        done[str(run.path)] = cancel_run(run, LocalShell(), save=parsed.save)
        say(f"{run.path.parent.name}/{run.path.name}: {done[str(run.path)]}")
    if parsed.json:
        print_json({"runs": done})
    return 0
