"""Run a recipe here: in the Slurm allocation that this shell is in, or as processes of this machine.

  launcher run recipes/vanilla_gpt_pretrain.py train.train_iters=20
  salloc -N 2 --gpus-per-node=8, then: launcher run recipes/vanilla_gpt_pretrain.py --nsys

Ctrl-C asks the ranks to save and stop; a second one ends them.
"""

import argparse

from launcher.cli import arguments
from launcher.cli.output import coloured, print_json, say, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher run`."""
    arguments.add_common(parser)
    arguments.add_check(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the plan and do nothing: `launcher plan --for run`")
    add("--json", action="store_true", help="print the outcome as one JSON object at the end")


def main(parsed: argparse.Namespace) -> int:
    """Plan, prepare, start, wait, tell."""
    from launcher.cli.planning import planned

    made = planned("run", parsed)
    if parsed.dry_run:
        from launcher.cli.commands.plan import show

        show(made.plan, as_json=parsed.json, with_scripts=False)
        return 0
    if parsed.check_config:
        from launcher.cli.checking import checked

        made = checked(made)
    from launcher._util.shell import LocalShell
    from launcher.backends.start import start_run
    from launcher.backends.wait import interrupts, summary, wait
    from launcher.cli.outcome import tell
    from launcher.watch.follower import Follower

    for warning in made.plan.warnings:
        warn(warning)
    with interrupts() as counted:
        started = start_run(made.plan, made.host, made.resumed, LocalShell(), warn)
        run = started.run
        say(f"run {coloured(f'{made.plan.name}/{made.plan.run_id}', 'bold')}: {run.path}")
        with Follower(run) as follower:
            status = wait(started, counted, tick=follower.tick, say=follower.say)
    outcome = summary(run, run.latest_attempt())
    tell(run, outcome)
    if parsed.json:
        print_json(outcome)
    return status
