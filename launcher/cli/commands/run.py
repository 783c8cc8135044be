"""Run a recipe here: in the Slurm allocation that this shell is in, or as processes of this machine.

  launcher run recipes/vanilla_gpt_pretrain.py train.train_iters=20
  salloc -N 2 --gpus-per-node=8, then: launcher run recipes/vanilla_gpt_pretrain.py --nsys

Ctrl-C asks the ranks to save and stop; a second one ends them.
"""

import argparse

from launcher.cli import arguments
from launcher.cli.output import coloured, info, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher run`."""
    arguments.add_common(parser)
    arguments.add_check(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the plan and do nothing: `launcher plan --for run`")
    add("--json", action="store_true", help="print the outcome as one JSON object at the end")


def main(parsed: argparse.Namespace) -> int:
    """Run it, show its progress and print the outcome."""
    from launcher.api.prepare_plan import CheckPolicy, prepare_plan
    from launcher.cli.progress import TerminalProgress

    progress = TerminalProgress()
    check: CheckPolicy = "never" if parsed.dry_run else "if asked"
    prepared = prepare_plan(arguments.read_request(parsed), "run", check=check, progress=progress)
    if parsed.dry_run:
        from launcher.cli.commands.plan import show

        show(prepared.plan, as_json=parsed.json, with_scripts=False)
        return 0
    from launcher.api.run import start_run, wait_for_run
    from launcher.backends.wait import interrupts
    from launcher.cli.outcome import print_outcome
    from launcher.watch.follower import Follower

    plan = prepared.plan
    with interrupts() as counted:
        started = start_run(prepared, progress)
        info(f"run {coloured(f'{plan.name}/{started.run.path.name}', 'bold')}: {started.run.path}")
        with Follower(started.run) as follower:
            outcome = wait_for_run(started, counted, tick=follower.tick, say=follower.say)
    print_outcome(outcome.run, outcome.summary)
    if parsed.json:
        print_json(outcome.summary)
    return outcome.exit_status
