"""Remove runs that are over, with everything in their directories: sizes first, and nothing without a yes.

In a shell:
  launcher rm llama3_8b_pretrain/20260921-120000-abcd
  launcher rm --with-checkpoints --yes RUN RUN

A run that is live, or of which that is not known, stays. So does one with checkpoints, unless --with-checkpoints, and
one whose checkpoints another run loads that goes on. The exit status is 1 where a named run stays.
`launcher gc --older-than 30d` removes old runs, `launcher gc RUN --keep-last N` checkpoints alone.
"""

import argparse
from typing import TYPE_CHECKING

from launcher.cli.arguments import RUN_HELP, add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_error, print_json

if TYPE_CHECKING:
    from launcher.api.remove import Allowed, Confirm, Removal

_SHOWN = 50
"""Rows of a listing; the sums are of all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher rm`."""
    complete(parser.add_argument("runs", metavar="RUN", nargs="+", help=RUN_HELP), "runs")
    add_removal(parser)
    add_run_root(parser)


def add_removal(parser: argparse.ArgumentParser) -> None:
    """Add what `launcher rm` and `launcher gc --older-than` share."""
    add = parser.add_argument
    add("--with-checkpoints", action="store_true", help="remove also runs with checkpoints, and those with them")
    add("--lost", action="store_true", help="remove also runs whose end nothing has recorded")
    add("--yes", action="store_true", help="remove without asking; without it and without a terminal nothing goes")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """List the runs, ask, and remove them."""
    from launcher.api.remove import remove_runs

    found = remove_runs(
        parsed.runs, run_root=parsed.run_root, allowed=read_allowed(parsed), confirm=confirmation(parsed)
    )
    return print_removal(found, parsed) or int(bool(found.staying))


def read_allowed(parsed: argparse.Namespace) -> "Allowed":
    """Return what may go besides."""
    from launcher.api.remove import Allowed

    return Allowed(checkpoints=parsed.with_checkpoints, lost=parsed.lost)


def confirmation(parsed: argparse.Namespace) -> "Confirm | None":
    """Return what decides: --yes, a question on a terminal, or nothing."""
    from launcher.cli.output import ask_yes

    def asked(found: "Removal") -> bool:
        _show(found)
        return bool(parsed.yes) or ask_yes(f"remove {_count(len(found.going))}, {_freed(found)}?")

    from launcher.cli.output import can_ask

    return asked if parsed.yes or can_ask() else None


def print_removal(found: "Removal", parsed: argparse.Namespace) -> int:
    """Print the result; return the highest exit status of the errors, 0 without one."""
    if confirmation(parsed) is None or not (found.going or found.removed):
        _show(found)
    for error in found.errors:
        print_error(error, as_json=False)
    if found.of_others:
        info(f"{_count(found.of_others)} of other users left out")
    if found.removed:
        from launcher.contract.units import bytes_text

        freed = bytes_text(sum(one.size.total for one in found.removed if one.size))
        info(f"removed {_count(len(found.removed))}, {freed}")
    elif found.going:
        info(f"nothing was removed; --yes removes {_count(len(found.going))}, {_freed(found)}")
    else:
        info("nothing to remove")
    if parsed.json:
        runs = [one.to_dict() for one in found.runs]
        print_json({"version": 1, "runs": runs, "of_other_users": found.of_others})
    return max((error.exit_status for error in found.errors), default=0)


def _show(found: "Removal") -> None:
    """Print a row for each run: what it takes, of that its checkpoints, and whether it goes."""
    from launcher._util.tables import aligned
    from launcher.contract.units import bytes_text

    rows = [("RUN", "STATE", "SIZE", "CHECKPOINTS", "")]
    for one in found.runs[:_SHOWN]:
        sizes = (bytes_text(one.size.total), bytes_text(one.size.checkpoints)) if one.size else ("", "")
        rows.append((one.name, one.status.phase.value, *sizes, f"stays: {one.keep}" if one.keep else "goes"))
    if len(rows) > 1:
        for line in aligned(rows):
            info(line)
    if len(found.runs) > _SHOWN:
        info(f"and {len(found.runs) - _SHOWN} more")


def _count(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"


def _freed(found: "Removal") -> str:
    from launcher.contract.units import bytes_text

    checkpoints = sum(one.size.checkpoints for one in found.going if one.size)
    total = sum(one.size.total for one in found.going if one.size)
    return f"{bytes_text(total)}{f', {bytes_text(checkpoints)} of them checkpoints' if checkpoints else ''}"
