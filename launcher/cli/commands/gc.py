"""Remove checkpoints of a run by policy, or runs that ended long ago: sizes first, and nothing without a yes.

In a shell:
  launcher gc llama3_8b_pretrain --keep-last 2             its older checkpoints
  launcher gc --older-than 30d --state failed,cancelled    runs of this run root
"""

import argparse
from typing import TYPE_CHECKING

from launcher.cli.arguments import RUN_HELP, add_run_root, refuse_all_with_run_root
from launcher.cli.commands import rm
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json
from launcher.cli.parser import age_s, count, phases

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.api.gc import CollectedCheckpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher gc`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", nargs="?", help=RUN_HELP), "runs")
    add("--keep-last", type=count, metavar="N", help="keep the newest N whole checkpoints")
    add("--keep-every", type=count, metavar="M", help="keep those at multiples of M iterations, too")
    add(
        "--verify",
        choices=("full", "budget", "sizes"),
        help="what of the newest checkpoint is verified before others are removed: all sums, those that 120 s allow "
        "(default), or the sizes",
    )
    runs = parser.add_argument_group("without RUN: runs that ended long ago")
    runs.add_argument("--older-than", metavar="AGE", type=age_s, help="ended before: 12h, 30d, 8w")
    complete(
        runs.add_argument(
            "--state", metavar="STATE[,STATE]", type=phases, help="only those that ended so: failed, ..."
        ),
        "phases",
    )
    runs.add_argument(
        "--all", action="store_true", default=None, help="those of all your run roots, not only of the one here"
    )
    rm.add_removal(parser)
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """List the checkpoints, or the runs, with what happens to each, and remove those that go."""
    _refuse_mixture(parsed)
    return _checkpoints(parsed) if parsed.run is not None else _runs(parsed)


_OF_CHECKPOINTS = {"keep_last": "--keep-last", "keep_every": "--keep-every", "verify": "--verify"}
_OF_RUNS = {
    "older_than": "--older-than",
    "state": "--state",
    "all": "--all",
    "with_checkpoints": "--with-checkpoints",
    "lost": "--lost",
}


def _refuse_mixture(parsed: argparse.Namespace) -> None:
    """Raise ConfigError for options of the other kind, and where neither a policy nor an age is stated."""
    from launcher._util.errors import ConfigError

    of_run = parsed.run is not None
    for name, option in (_OF_RUNS if of_run else _OF_CHECKPOINTS).items():
        given = getattr(parsed, name)
        if given is not None and given is not False:  # an age of 0 is given, too
            which = "is for runs, without RUN" if of_run else "is for the checkpoints of one RUN"
            raise ConfigError(f"it {which}", where=option, hint="`launcher gc --help` shows both uses.")
    if of_run and parsed.keep_last is None:
        raise ConfigError(
            "it is not stated how many checkpoints stay",
            where="--keep-last",
            hint=f"launcher gc {parsed.run} --keep-last N; `launcher rm {parsed.run}` removes the whole run.",
        )
    refuse_all_with_run_root(parsed)
    if not of_run and parsed.older_than is None:
        raise ConfigError(
            "it is not stated what goes", hint="launcher gc RUN --keep-last N, or launcher gc --older-than 30d"
        )


def _runs(parsed: argparse.Namespace) -> int:
    from launcher.api.remove import remove_old_runs

    found = remove_old_runs(
        parsed.older_than,
        run_root=parsed.run_root,
        everywhere=bool(parsed.all),
        states=parsed.state or (),
        allowed=rm.read_allowed(parsed),
        confirm=rm.confirmation(parsed),
    )
    return rm.print_removal(found, parsed)


def _checkpoints(parsed: argparse.Namespace) -> int:
    from launcher.api.gc import collect_checkpoints
    from launcher.cli.output import ask_yes, can_ask
    from launcher.contract.units import bytes_text

    def show(found: "CollectedCheckpoints") -> bool:
        _show(found)
        return True

    def collect(confirm: "Callable[[CollectedCheckpoints], bool] | None") -> "CollectedCheckpoints":
        return collect_checkpoints(
            parsed.run,
            keep_last=parsed.keep_last,
            keep_every=parsed.keep_every,
            run_root=parsed.run_root,
            verify=parsed.verify or "budget",
            confirm=confirm,
        )

    done = collect(show if parsed.yes else None)
    if not parsed.yes or not done.going:
        _show(done)
    going = bytes_text(sum(one.bytes for one in done.going))
    if done.going and not parsed.yes and can_ask():
        # The lock of the run is not held while a person thinks: only what was listed may go afterwards.
        listed = {one.iteration for one in done.going}
        if ask_yes(f"remove {len(done.going)} of {len(done.found)} checkpoints, {going}?"):
            done = collect(lambda found: {one.iteration for one in found.going} <= listed)
            going = bytes_text(sum(one.bytes for one in done.going))
    if done.removed:
        freed = bytes_text(sum(one.bytes for one in done.found if one.iteration in done.removed))
        info(f"removed {len(done.removed)} of {len(done.found)} checkpoints, {freed}")
    elif done.going:
        info(f"nothing was removed; --yes removes {len(done.going)} of {len(done.found)} checkpoints, {going}")
    else:
        info(f"all {len(done.found)} checkpoints stay")
    if parsed.json:
        print_json(done.to_dict())
    return 0


def _show(found: "CollectedCheckpoints") -> None:
    from launcher.contract.units import bytes_text

    if found.live:
        info(f"the run is {found.live}")
    for one in found.found:
        what = f"stays: {one.keep}" if one.keep else "goes"
        info(f"{one.iteration:>10}  {bytes_text(one.bytes):>10}  {one.state:32}  {what}")
