"""Submit a recipe as a batch job.

  launcher submit recipes/vanilla_gpt_pretrain.py --nodes 2 --time 0:30:00 train.train_iters=20
  launcher submit --resume RUN

With --follow the run is watched; Ctrl-C then leaves the job alone.
"""

import argparse
from typing import TYPE_CHECKING, Any

from launcher.cli import arguments
from launcher.cli.commands import plan
from launcher.cli.output import coloured, info, print_json

if TYPE_CHECKING:
    from launcher.api.prepare_plan import PreparedPlan
    from launcher.api.submit import SubmittedRun
    from launcher.backends.wait import Interrupts
    from launcher.cli.progress import TerminalProgress
    from launcher.config.request import Request
    from launcher.remote.cluster import RemoteCluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher submit`."""
    plan.add_run_arguments(parser, "submit")
    add = parser.add_argument
    add(
        "--once",
        metavar="KEY",
        help="submit it once for this key; later tries return that run (launcher help scripts)",
    )
    add("--follow", action="store_true", help="watch the run until it has ended")
    add("--json", action="store_true", help="print job and run directory as one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Submit it and print the job; with --follow also show its progress and the outcome."""
    from launcher.cli.progress import TerminalProgress
    from launcher.remote.cluster import elsewhere_of

    if parsed.dry_run and parsed.once is not None:
        from launcher._util.errors import ConfigError

        raise ConfigError("--once has no effect with --dry-run", where="--once", hint="Leave one of them out.")
    request = arguments.read_request(parsed)
    if (there := elsewhere_of(request)) is not None:
        return _submit_there(parsed, request, there)
    progress = TerminalProgress()
    prepared: PreparedPlan | SubmittedRun | None
    if parsed.once is not None:
        prepared = _submit_once(request, parsed.once, progress)
    else:
        prepared = plan.prepare_or_show(parsed, "submit", "if possible", progress)
    if prepared is None:
        return 0
    if not parsed.follow:
        submitted = _submit(prepared, progress)
        run_id = submitted.run_id
        info(f"launcher status {run_id}, launcher logs -f {run_id}")
        answer, status = submitted.to_dict(), 0
    else:
        from launcher.backends.wait import interrupts

        # From here on Ctrl-C means: leave the job alone, once it is submitted.
        with interrupts() as counted:
            submitted = _submit(prepared, progress)
            status, outcome = _follow(submitted, counted)
        answer = submitted.to_dict() | outcome
    if parsed.json:
        print_json(answer)
    return status


def _submit_there(parsed: argparse.Namespace, request: "Request", there: "RemoteCluster") -> int:
    """Submit on the host of the cluster profile and print the job."""
    from launcher._util.errors import ConfigError
    from launcher.cli.output import warn
    from launcher.remote.commands import plan_there, submit_there

    if parsed.follow:
        text = "the job is on another machine, and a connection need not last as long as it does"
        raise ConfigError(text, where="--follow", hint=f"launcher logs -f RUN --cluster {there.cluster.name}")
    if parsed.dry_run:
        return plan_there(there, request, ["--json"] if parsed.json else [], warn)
    status, answer = submit_there(there, request, parsed.once, warn)
    if "error" not in answer:
        run_id = answer["run_id"]
        at = f"--cluster {there.cluster.name}"
        info(f"launcher status {run_id} {at}, launcher logs -f {run_id} {at}, launcher pull {run_id} {at}")
    if parsed.json:
        print_json({**answer, "host": there.ssh.host})
    return status


def _submit_once(request: "Request", once: str, progress: "TerminalProgress") -> "SubmittedRun":
    from launcher.api.once import submit_once

    return submit_once(request, once, progress, check="if possible")


def _submit(prepared: "PreparedPlan | SubmittedRun", progress: "TerminalProgress") -> "SubmittedRun":
    """Submit a plan, unless that has been done, and print the job."""
    from launcher.api.submit import SubmittedRun, submit_new

    submitted = prepared if isinstance(prepared, SubmittedRun) else submit_new(prepared, progress)
    name = f"{submitted.name}/{submitted.run_id}"
    already = "" if submitted.new else "submitted before: "
    info(f"{already}job {coloured(submitted.job, 'bold')} of run {name}: {submitted.run.path}")
    if submitted.successors:
        info(f"queued behind it: {', '.join(submitted.successors)}")
    return submitted


def _follow(submitted: "SubmittedRun", counted: "Interrupts") -> tuple[int, dict[str, Any]]:
    """Watch until the run is over, and return the exit status and the outcome.

    An interrupt, one that came before included, ends the watching and leaves the job alone.
    """
    from launcher._util.shell import LocalShell
    from launcher.api.submit import follow_run
    from launcher.cli.outcome import print_outcome
    from launcher.slurm.poller import Poller
    from launcher.watch.follower import Follower

    job, run_id = submitted.job, submitted.run_id
    with Follower(submitted.run, Poller((job,), LocalShell(), submitted.cluster)) as follower:
        outcome = follow_run(submitted.run, tick=follower.tick, leave=lambda: counted.count > 0)
        if outcome is None:
            info(f"job {job} goes on; launcher status {run_id} shows how, launcher cancel {run_id} ends it")
            return 0, {"outcome": "running"}
    print_outcome(outcome.run, outcome.summary)
    return outcome.exit_status, outcome.summary
