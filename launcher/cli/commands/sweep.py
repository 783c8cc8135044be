"""Run many points of one recipe: a sweep file says what varies (launcher help sweeps).

  launcher sweep FILE.toml --dry-run
  launcher sweep FILE.toml --max-parallel 8
  launcher sweep status|report|best DIR

The same command goes on where an earlier one was interrupted. With --follow it stays until the sweep is over.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count

if TYPE_CHECKING:
    from launcher.cli.progress import TerminalProgress
    from launcher.sweep.compare import Ranking
    from launcher.sweep.sweeps import Options, PlannedSweep, SweepStatus
    from launcher.sweep.trials import Trial

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher sweep`."""
    add = parser.add_argument
    add("what", metavar="FILE|status|report|best", help="a sweep file, or what to do with the sweep in DIR")
    add(
        "directories",
        metavar="DIR",
        nargs="*",
        help="the directory of a sweep, such as runs/NAME; report takes several",
    )
    add("--max-parallel", metavar="N", type=count, help="how many runs Slurm starts at the same time")
    add("--repeat", metavar="N|auto", type=_repeat, help="runs of each point; auto: until the best one is sure")
    add("--dry-run", action="store_true", help="show every point, and start nothing")
    add("--follow", action="store_true", help="stay until the sweep is over; Ctrl-C leaves the jobs alone")
    add("--output", metavar="FILE", help="of report: write the page there (default: sweep/page.html in DIR)")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Plan, submit, follow, or show a sweep."""
    if parsed.what in ("status", "report", "best"):
        return _show(parsed)
    from launcher.cli.progress import TerminalProgress
    from launcher.sweep.sweeps import Options, plan_sweep, submit_sweep

    _refuse(bool(parsed.directories), "DIR", "a sweep file says where its runs go")
    _refuse(parsed.output is not None, "--output", "only report writes a page")
    progress = TerminalProgress()
    if parsed.dry_run:
        return _show_plan(plan_sweep(parsed.what, progress), as_json=parsed.json)
    options = Options(parsed.max_parallel, parsed.repeat)
    if parsed.follow:
        return _follow(parsed, progress, options)
    status = submit_sweep(parsed.what, progress, options)
    if parsed.json:
        print_json(status.to_dict())
    _print_counts(status)
    info(f"launcher sweep status {status.directory}")
    return 2 if status.trials and all(trial.state == "refused" for trial in status.trials) else 0


def _repeat(text: str) -> int | str:
    return text if text == "auto" else count(text)


def _refuse(given: bool, name: str, reason: str) -> None:
    if given:
        from launcher._util.errors import ConfigError

        raise ConfigError(f"{name} has no effect here: {reason}", where=name)


def _show(parsed: argparse.Namespace) -> int:
    """Show the sweep in a directory."""
    from launcher._util.errors import ConfigError
    from launcher.cli.progress import TerminalProgress
    from launcher.sweep.sweeps import read_sweep

    if not parsed.directories:
        raise ConfigError("no directory was given", where="DIR", hint="Such as: launcher sweep status runs/NAME")
    _refuse(parsed.dry_run or parsed.follow, "--dry-run or --follow", "nothing is started")
    _refuse(bool(parsed.max_parallel or parsed.repeat), "--max-parallel or --repeat", "nothing is started")
    progress = TerminalProgress()
    if parsed.what == "report":
        return _report(parsed, progress)
    _refuse(parsed.output is not None, "--output", "only report writes a page")
    _refuse(len(parsed.directories) > 1, "a second DIR", "only report shows several sweeps")
    status, comparison = read_sweep(parsed.directories[0], progress)
    if parsed.what == "best":
        return _best(status, comparison, as_json=parsed.json)
    if parsed.json:
        print_json(status.to_dict())
    else:
        _print_table(status)
        _print_counts(status)
    return 0


def _report(parsed: argparse.Namespace, progress: "TerminalProgress") -> int:
    """Write the page of the sweeps and print its path."""
    from launcher.sweep.report import report_sweeps

    path = report_sweeps(parsed.directories, progress, output=parsed.output)
    if parsed.json:
        print_json({"version": 1, "page": str(path)})
    else:
        info(f"page: {path}")
    return 0


def _best(status: "SweepStatus", comparison: "Ranking", *, as_json: bool) -> int:
    """Print which point is the best and how sure that is; 1 where that is not known."""
    if as_json:
        print_json(best_values(status, comparison))
    else:
        _print_best(status, comparison)
    return 0 if comparison.verdict == "best" else 1


def best_values(status: "SweepStatus", comparison: "Ranking") -> dict[str, object]:
    """Return which point is the best as plain values."""
    import dataclasses

    trials = {trial.content.name: trial for trial in status.trials}
    return {
        "version": 1,
        "directory": str(status.directory),
        "verdict": comparison.verdict,
        "sentence": comparison.sentence,
        "points": [
            {**dataclasses.asdict(each), "values": trials[each.name].content.to_dict()} for each in comparison.standings
        ],
    }


def _print_best(status: "SweepStatus", comparison: "Ranking") -> None:
    from launcher._util.tables import aligned

    trials = {trial.content.name: trial for trial in status.trials}
    rows = [("POINT", "RUNS", "REWARD", "SPREAD", "BEHIND", "VALUES")]
    for each in comparison.standings[:_SHOWN]:
        spread = "?" if each.spread_percent is None else f"{each.spread_percent:.2f} %"
        margin = "" if each.margin_percent is None else f" ± {each.margin_percent:.2f}"
        behind = "" if each.p_value is None and not each.behind_percent else f"{each.behind_percent:.2f}{margin} %"
        rows.append((each.name, str(each.runs), f"{each.median:.6g}", spread, behind, trials[each.name].content.label))
    for line in aligned(rows):
        say(line)
    say(comparison.sentence)


def _show_plan(planned: "PlannedSweep", *, as_json: bool) -> int:
    """Print every point of a dry run; 2 where none of them can be run."""
    if as_json:
        print_json(planned.to_dict())
    else:
        for point in planned.points:
            reason = planned.refused.get(point.name)
            word = coloured("impossible", "red", sys.stdout) if reason else "ok"
            say(f"{point.name}  {word}  {point.label}{f': {reason}' if reason else ''}")
    info(f"{len(planned.points)} points, {len(planned.refused)} impossible; nothing was started: {planned.directory}")
    return 2 if planned.points and len(planned.refused) == len(planned.points) else 0


def _follow(parsed: argparse.Namespace, progress: "TerminalProgress", options: "Options") -> int:
    """Drive a sweep until it is over; an interrupt leaves its jobs alone."""
    from launcher.backends.wait import interrupts
    from launcher.sweep.sweeps import follow_sweep

    last = dict[str, int]()

    def tick(status: "SweepStatus") -> None:
        if status.counts != last:
            last.clear()
            last.update(status.counts)
            info(_counts(status))

    with interrupts() as counted:
        status, comparison = follow_sweep(parsed.what, progress, options, leave=lambda: counted.count > 0, tick=tick)
    if parsed.json:
        print_json({**status.to_dict(), "best": best_values(status, comparison)})
    _print_failures(status)
    info(comparison.sentence if status.over else f"the sweep goes on: launcher sweep {parsed.what} --follow")
    return 0 if status.over and status.good else 1 if status.over else 0


def _print_table(status: "SweepStatus") -> None:
    from launcher._util.tables import aligned, printable

    rows: list[tuple[str, ...]] = [("TRIAL", "POINT", "STATE", "RESULT", "VALUES", "REASON")]
    rows += [tuple(map(printable, _row(trial))) for trial in status.trials]
    for line in aligned(rows):
        say(line)


def _row(trial: "Trial") -> tuple[str, ...]:
    result = next((f"{name} {value:.6g}" for name, value in trial.metrics), "")
    return (str(trial.number), trial.content.name, trial.state, result, trial.content.label, trial.reason or "")


def _counts(status: "SweepStatus") -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(status.counts.items()))


def _print_counts(status: "SweepStatus") -> None:
    info(f"{len(status.trials)} points: {_counts(status)}")
    _print_failures(status)


def _print_failures(status: "SweepStatus") -> None:
    """Print what has failed or cannot be run, with the reason."""
    failed = [trial for trial in status.trials if trial.state in ("failed", "cancelled", "refused")]
    for trial in failed[:_SHOWN]:
        info(f"{coloured(trial.state, 'red')}: {trial.content.label}: {trial.reason}")
    if len(failed) > _SHOWN:
        info(f"and {len(failed) - _SHOWN} more: launcher sweep status {status.directory}")
