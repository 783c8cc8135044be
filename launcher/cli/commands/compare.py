"""Compare two runs of whatever kind: loss, gradient norm, time, throughput, memory, configuration, versions.

In a shell:
  launcher compare RUN RUN                     a table; --page FILE makes a page, --json one object
  launcher compare RUN --gate baseline.toml    for CI: status 1 if it is slower, larger or worse
  launcher compare RUN --save-baseline FILE    write a baseline of a run
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.tables import aligned
from launcher.cli.arguments import add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say

if TYPE_CHECKING:
    from launcher.correlate.compare import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher compare`."""
    add = parser.add_argument
    complete(
        add("runs", metavar="RUN", nargs="+", help="a directory, run id or name, or the log of a training"), "runs"
    )
    add("--gate", metavar="FILE", help="a baseline (TOML), or a golden file of Megatron Bridge's (JSON)")
    add("--save-baseline", metavar="FILE", help="write a baseline of the run to FILE")
    add("--page", metavar="FILE", help="write one HTML page of the comparison to FILE")
    add("--iterations", action="store_true", help="show the losses of each iteration")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Compare; the status is 1 where a gate fails."""
    from launcher._util.errors import ConfigError
    from launcher.correlate import compare

    alone = parsed.gate or parsed.save_baseline
    if len(parsed.runs) > 2 or (len(parsed.runs) == 1 and not alone):
        raise ConfigError("it compares two runs, or one with --gate", where="RUN")
    found: Comparison | None = None
    answer: dict[str, Any] = {}
    if len(parsed.runs) == 2:
        found = compare.compare_runs(*parsed.runs, run_root=parsed.run_root)
        answer = compare.as_object(found)
        if parsed.page:
            from launcher.correlate.page import write_page

            write_page(found, Path(parsed.page).absolute())
        if not parsed.json:
            _print(found, iterations=parsed.iterations)
    if parsed.save_baseline:
        _save(parsed)
    status = _gate(parsed, answer) if parsed.gate else 0
    if parsed.json:
        print_json(answer)
    return status


def _save(parsed: argparse.Namespace) -> None:
    from launcher.correlate.compare import read_side
    from launcher.correlate.gate import baseline_text
    from launcher.rundir.run_directory import write_atomically

    path = Path(parsed.save_baseline).absolute()
    write_atomically(path, baseline_text(read_side(parsed.runs[-1], parsed.run_root)))
    info(f"wrote {path}")


def _gate(parsed: argparse.Namespace, answer: dict[str, Any]) -> int:
    """Print what the gate found of the last run; return 1 where it fails."""
    from launcher.correlate.compare import read_side
    from launcher.correlate.gate import check, read_baseline

    baseline = read_baseline(parsed.gate, Path.cwd(), parsed.run_root)
    findings = check(read_side(parsed.runs[-1], parsed.run_root), baseline)
    passed = all(one.passed for one in findings)
    answer["gate"] = {
        "passed": passed,
        "findings": [{"name": one.name, "passed": one.passed, "text": one.text} for one in findings],
    }
    if not parsed.json:
        for one in findings:
            mark = coloured("passed", "green") if one.passed else coloured("failed", "red")
            info(f"{mark}: {one.name}: {one.text}")
    return 0 if passed else 1


def _print(found: "Comparison", *, iterations: bool) -> None:
    from launcher.contract.values import show
    from launcher.correlate.compare import iterations_table, table_of

    say("\n".join(aligned(table_of(found))))
    if iterations:
        say("\n" + "\n".join(aligned(iterations_table(found.left.points, found.right.points))))
    if found.settings:
        rows = [
            (one.key, show(one.left), show(one.right), "" if one.numbers else "changes no loss")
            for one in found.settings
        ]
        say("\nsettings that differ\n" + "\n".join(aligned(rows)))
    if found.environment:
        variables = [(name, left or "-", right or "-") for name, left, right in found.environment]
        say("\nvariables that differ\n" + "\n".join(aligned(variables)))
    say(f"\n{found.verdict.state}: {found.verdict.sentence}")
