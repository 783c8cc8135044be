"""Run a recipe here: in the Slurm allocation that this shell is in, or as processes of this machine.

  launcher run recipes/vanilla_gpt_pretrain.py train.train_iters=20
  salloc -N 2 --gpus-per-node=8 --exclusive, then: launcher run recipes/vanilla_gpt_pretrain.py --nsys

Ctrl-C asks the ranks to save and stop; a second one ends them.
"""

import argparse

from launcher.cli.commands import plan
from launcher.cli.output import coloured, info, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher run`."""
    plan.add_run_arguments(parser, "run")
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object at the end")


def main(parsed: argparse.Namespace) -> int:
    """Run it, show its progress and print the outcome."""
    from launcher.cli.progress import TerminalProgress

    progress = TerminalProgress()
    prepared = plan.prepare_or_show(parsed, "run", "if asked", progress)
    if prepared is None:
        return 0
    from launcher.api.run import start_run, wait_for_run
    from launcher.backends.wait import interrupts
    from launcher.cli.outcome import print_outcome
    from launcher.watch.follower import Follower

    with interrupts() as counted:
        started = start_run(prepared, progress)
        info(f"run {coloured(f'{prepared.plan.name}/{started.run.path.name}', 'bold')}: {started.run.path}")
        with Follower(started.run) as follower:
            outcome = wait_for_run(started, counted, tick=follower.tick, say=follower.say)
    print_outcome(outcome.run, outcome.summary)
    if parsed.json:
        print_json(outcome.summary)
    return outcome.exit_status
