"""Show runs and how they are doing: the newest ones, or those that are named by directory, run id or name.

In a shell:
  launcher status                          the newest runs of this run root
  launcher status RUN --json               one, with its history
  launcher status --all --state failed --since 3d
  launcher status --watch
"""

import argparse
import sys
import time

from launcher.cli.arguments import RUN_HELP, add_run_root, refuse_all_with_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json
from launcher.cli.parser import count, phases, seconds

_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher status`."""
    add = parser.add_argument
    complete(add("runs", metavar="RUN", nargs="*", help=RUN_HELP), "runs")
    add("--limit", metavar="N", type=count, help=f"without RUN: how many (default: {_LIMIT})")
    complete(
        add("--state", metavar="STATE[,...]", type=phases, help="without RUN: those in these states"),
        "phases",
    )
    add("--since", metavar="TIME", help="without RUN: those begun since then: `90m`, `12h`, `3d`, `2w`, `2026-01-31`")
    add("--watch", metavar="SECONDS", nargs="?", type=seconds, const=10.0, help="show it again and again (default: 10)")
    complete(
        add(
            "--cluster", metavar="NAME", help="cluster profile whose run root is searched; without RUN: its runs alone"
        ),
        "clusters",
    )
    add("--all", action="store_true", help="without RUN: those of all your run roots, not only of the one here")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print a table of the runs, or an object."""
    from launcher._util.errors import RequestError
    from launcher.remote.cluster import elsewhere

    _refuse_without_effect(parsed)
    if parsed.run_root is None and not parsed.all and (there := elsewhere(parsed.cluster, parsed.runs)) is not None:
        from launcher.remote.commands import run_there

        return run_there(there, "status", _words(parsed))
    if parsed.watch is None:
        _show(parsed)
        return 0
    if parsed.json:
        raise RequestError("--watch shows a table; --json prints one object", where="--watch")
    while True:
        if sys.stdout.isatty():
            sys.stdout.write("\033[H\033[2J")
        over = _show(parsed)
        sys.stdout.flush()
        if over and parsed.runs:
            return 0
        time.sleep(parsed.watch)


def _words(parsed: argparse.Namespace) -> list[str]:
    """Return the command line for the host of a cluster profile."""
    if parsed.watch is not None and parsed.json:
        from launcher._util.errors import RequestError

        raise RequestError("--watch shows a table; --json prints one object", where="--watch")
    words = [*parsed.runs, *(["--json"] if parsed.json else [])]
    for name, value in (("limit", parsed.limit), ("since", parsed.since), ("watch", parsed.watch)):
        words += [f"--{name}", str(value)] if value is not None else []
    return [*words, *(["--state", ",".join(parsed.state)] if parsed.state else [])]


def _refuse_without_effect(parsed: argparse.Namespace) -> None:
    """Raise ConfigError for an option that would choose among runs where runs, or their directory, are named."""
    from launcher._util.errors import ConfigError

    for name in ("limit", "state", "since", "all") if parsed.runs else ():
        if getattr(parsed, name):
            raise ConfigError("it chooses among runs, and here they are named", where=f"--{name}", hint="Leave it out.")
    refuse_all_with_run_root(parsed)


def _show(parsed: argparse.Namespace) -> bool:
    """Show the runs once; return whether all are over."""
    from launcher.api.status import read_statuses

    found = read_statuses(
        parsed.runs,
        run_root=parsed.run_root,
        cluster=parsed.cluster,
        everywhere=parsed.all,
        limit=parsed.limit or _LIMIT,
        states=parsed.state or (),
        since=parsed.since,
    )
    if parsed.json:
        from launcher.watch.status_details import to_json

        print_json(to_json(found.runs, found.answer, nodes=bool(parsed.runs)))
    elif found.runs:
        from launcher.watch.status_table import write_table

        write_table(found.runs, sys.stdout, time.time())
        if parsed.runs:
            from launcher.watch.status_details import write_details

            write_details(found.runs, sys.stdout)
    else:
        searched = ", ".join(map(str, found.run_roots))
        such = "such runs" if parsed.state or parsed.since or parsed.cluster else "runs"
        info(f"no {such} in {searched}; --run-root names another directory")
    return all(each.phase.over for each in found.runs)
