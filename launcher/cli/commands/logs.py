"""Print or follow the log of a rank: of a failed run the first failing rank's, else rank 0's with the losses.

In a shell:
  launcher logs -f RUN                     from the queue to the verdict
  launcher logs RUN --rank 12 --tail 100
"""

import argparse
import sys

from launcher.cli.arguments import RUN_HELP, add_cluster, add_run_root, run_root_of
from launcher.cli.completion import complete
from launcher.cli.output import info, warn
from launcher.cli.parser import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher logs`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help=RUN_HELP), "runs")
    add("-f", "--follow", action="store_true", help="wait for more until the run has ended, over all further attempts")
    add("--tail", metavar="N", type=count, help="begin with the last N lines of each log")
    add("--rank", metavar="N", help="this rank, `last`, or `all` with its number before each line")
    add("--attempt", metavar="N", help="this attempt (default: the newest)")
    add_cluster(parser)
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print on standard output, so that it can be searched."""
    from launcher.api.logs import write_logs
    from launcher.remote.cluster import elsewhere

    if parsed.run_root is None and (there := elsewhere(parsed.cluster, [parsed.run])) is not None:
        from launcher.remote.commands import run_there

        words = [parsed.run, *(["--follow"] if parsed.follow else [])]
        for name, value in (("tail", parsed.tail), ("rank", parsed.rank), ("attempt", parsed.attempt)):
            words += [f"--{name}", str(value)] if value is not None else []
        return run_there(there, "logs", words)
    missing = write_logs(
        parsed.run,
        sys.stdout,
        run_root=run_root_of(parsed),
        rank=parsed.rank,
        attempt=parsed.attempt,
        last=parsed.tail,
        follow=parsed.follow,
        say=info,
    )
    for line in missing:
        warn(line)
    return 0
