"""End runs, waiting or running; with --checkpoint their ranks write a checkpoint first.

In a shell:
  launcher cancel RUN RUN                  end them now
  launcher cancel --checkpoint RUN         save a checkpoint and stop
"""

import argparse

from launcher.cli.arguments import RUN_HELP, add_cluster, add_run_root, run_root_of
from launcher.cli.completion import complete
from launcher.cli.output import error_object, info, print_error, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher cancel`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="+", help=RUN_HELP), "runs")
    add("--checkpoint", action="store_true", help="ask the ranks to save a checkpoint and stop after this iteration")
    add("--force", action="store_true", help="end the jobs even if Slurm does not show whether they are the run's")
    add("--json", action="store_true", help="print one JSON object")
    add_cluster(parser)
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """End the runs and print what was done to each; return the highest of their exit statuses."""
    from launcher.api.cancel import cancel
    from launcher.remote.cluster import elsewhere

    if parsed.run_root is None and (there := elsewhere(parsed.cluster, parsed.runs)) is not None:
        from launcher.remote.commands import run_there

        switches = (("--checkpoint", parsed.checkpoint), ("--force", parsed.force), ("--json", parsed.json))
        return run_there(there, "cancel", [*parsed.runs, *(word for word, wanted in switches if wanted)])
    done, failed, status = {}, {}, 0
    for one in cancel(parsed.runs, run_root=run_root_of(parsed), save=parsed.checkpoint, force=parsed.force):
        if one.error is not None:
            failed[str(one.run.path)] = error_object(one.error)
            status = max(status, one.error.exit_status)
            print_error(one.error, as_json=False)
            continue
        done[str(one.run.path)] = one.detail
        info(f"{one.run.path.parent.name}/{one.run.path.name}: {one.detail}")
    if parsed.json:
        print_json({"runs": done, "errors": failed, "exit_status": status})
    return status
