"""Submit a recipe as a batch job.

  launcher submit recipes/vanilla_gpt_pretrain.py --nodes 2 --time 0:30:00 train.train_iters=20
  launcher submit --resume RUN

With --follow the run is watched; Ctrl-C then leaves the job alone.
"""

import argparse
from typing import TYPE_CHECKING, Any

from launcher.cli import arguments
from launcher.cli.output import coloured, print_json, say, warn

if TYPE_CHECKING:
    from launcher.cli.planning import Planned
    from launcher.rundir import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher submit`."""
    arguments.add_common(parser)
    arguments.add_check(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the plan and do nothing: `launcher plan --for submit`")
    add("--follow", action="store_true", help="watch the run until it has ended")
    add("--json", action="store_true", help="print job and run directory as one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Plan, check, submit, tell; with --follow also wait."""
    from launcher.cli.planning import planned

    made = planned("submit", parsed)
    if parsed.dry_run:
        from launcher.cli.commands.plan import show

        show(made.plan, as_json=parsed.json, with_scripts=False)
        return 0
    made = _checked(parsed, made)
    for warning in made.plan.warnings:
        warn(warning)
    if not parsed.follow:
        run, answer = _submit(made)
        say(f"launcher status {run.path.name}, launcher logs -f {run.path.name}")
        status = 0
    else:
        from launcher.backends.wait import interrupts
        from launcher.cli.following import follow

        # From here on Ctrl-C means: leave the job alone, once it is submitted.
        with interrupts() as counted:
            run, answer = _submit(made)
            status, outcome = follow(run, answer["job"], counted)
        answer |= outcome
    if parsed.json:
        print_json(answer)
    return status


def _submit(made: "Planned") -> "tuple[RunDirectory, dict[str, Any]]":
    from launcher._util.shell import LocalShell
    from launcher.backends.start import submit_run

    started = submit_run(made.plan, made.host, made.resumed, LocalShell(), warn)
    run, submission = started.run, started.submission
    say(f"job {coloured(submission.job, 'bold')} of run {made.plan.name}/{made.plan.run_id}: {run.path}")
    return run, {
        "job": submission.job,
        "cluster": submission.cluster,
        "name": made.plan.name,
        "run_id": made.plan.run_id,
        "run_dir": str(run.path),
    }


def _checked(parsed: argparse.Namespace, made: "Planned") -> "Planned":
    """By default where the training stack is at hand and the program is the project's own."""
    from launcher.cli import checking

    wanted = parsed.check_config
    if wanted is None:
        wanted = made.request.entrypoint is None and checking.stack_is_here(made)
    return checking.checked(made) if wanted else made
