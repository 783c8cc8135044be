"""Remove checkpoints of a run by policy: sizes first, and nothing without --yes."""

import argparse
from typing import TYPE_CHECKING

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json
from launcher.cli.parser import count

if TYPE_CHECKING:
    from launcher.api.gc import CollectedCheckpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher gc`."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help=RUN_HELP), "runs")
    add("--keep-last", type=count, required=True, metavar="N", help="keep the newest N whole checkpoints")
    add("--keep-every", type=count, metavar="M", help="keep those at multiples of M iterations, too")
    add(
        "--verify",
        choices=("full", "budget", "sizes"),
        default="budget",
        help="what of the newest checkpoint is verified before others are removed: all sums, those that 120 s allow "
        "(default), or the sizes",
    )
    add("--yes", action="store_true", help="remove; without it the checkpoints are listed and nothing is removed")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """List the checkpoints with what happens to each, and remove those that the policy does not keep."""
    from launcher.api.gc import collect_checkpoints
    from launcher.contract.units import bytes_text

    def show(found: "CollectedCheckpoints") -> bool:
        _show(found)
        return True

    done = collect_checkpoints(
        parsed.run,
        keep_last=parsed.keep_last,
        keep_every=parsed.keep_every,
        run_root=parsed.run_root,
        verify=parsed.verify,
        confirm=show if parsed.yes else None,
    )
    if not parsed.yes or not done.going:
        _show(done)
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
