"""Run a command beside a rank of a run that goes on: on its node, in its container, with its environment.

In a shell:
  launcher exec RUN -- nvidia-smi
  launcher exec RUN --rank 12 -- py-spy top --pid 4711
  launcher exec RUN -- bash

The command gets its own step of the job and shares CPUs, memory and GPUs with the ranks, so keep it small.
Exit status: the command's; 2 where the run is not running.
"""

import argparse
import sys

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.parser import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher exec`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help=RUN_HELP), "runs")
    add("--rank", metavar="N", type=whole_number, default=0, help="beside this rank (default: 0)")
    add_run_root(parser)
    parser.set_defaults(rest=())


def main(parsed: argparse.Namespace) -> int:
    """Run it with this terminal, and return its exit status."""
    from launcher.api.attach import execute_beside

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return execute_beside(parsed.run, parsed.rest, rank=parsed.rank, run_root=parsed.run_root, terminal=terminal)
