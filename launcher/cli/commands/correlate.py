"""Run two trainings with matched settings, and say whether they are the same.

  launcher correlate mlm:gpt bridge:vanilla_gpt_pretrain_config [KEY=VALUE ...] -- ARGUMENTS
  launcher correlate FILE.toml
  launcher correlate RUN RUN    judge two runs that have ended

The left side's settings are given to the right side (--match). The verdict, a plot and a page lie in the directory
`correlation` of the second run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.arguments import add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count

if TYPE_CHECKING:
    from launcher.correlate.correlate import Correlation, Pair

_OF_RUNS = ("cluster", "nodes", "gpus_per_node", "image", "runtime", "python", "run_root", "mcore", "env")
"""Options that both runs get as they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher correlate`."""
    add = parser.add_argument
    complete(add("left", metavar="LEFT", help="mlm:gpt, mlm:SCRIPT.py, a recipe, a run, or FILE.toml"), "recipes")
    complete(add("right", metavar="RIGHT", nargs="?", help="the other one"), "recipes")
    complete(
        add("assignments", metavar="KEY=VALUE", nargs="*", help="overrides of the side that is a recipe of Bridge"),
        "keys",
    )
    add(
        "--match",
        choices=("left", "right", "none"),
        default="left",
        help="whose settings both get (default: left); none: each its own, as given",
    )
    add("--fp32", action="store_true", help="compute in fp32 on both sides")
    add("--dropout", metavar="P", type=float, help="the dropout of both sides (default: as given; on CPU 0)")
    add("--probe", action="store_true", help="record checksums on both sides, so that the verdict names the stage")
    add(
        "--repeats",
        metavar="N",
        type=count,
        help="run each side N times, to measure its noise (default: once, and the left one again where they differ)",
    )
    add(
        "--at-once",
        metavar="N",
        type=count,
        default=1,
        help="run so many at a time, each on GPUs of its own if possible",
    )
    add("--tolerance", metavar="X", type=float, default=0.0, help="the relative difference of losses that is none")
    add(
        "--vary",
        metavar="KEY=A,B",
        help="run LEFT twice, with these two values of one setting: a key of Bridge, or an argument of Megatron-LM",
    )
    add("--emit", metavar="DIR", help="write both sides as scripts that need no launcher into DIR, and run nothing")
    add("--output", metavar="DIR", help="where the verdict, the plot and the page go")
    add("--json", action="store_true", help="print one JSON object")
    runs = parser.add_argument_group("of both runs")
    add = runs.add_argument
    complete(add("--cluster", metavar="NAME", help="cluster profile"), "clusters")
    add("--nodes", "-N", metavar="N", type=count, help="nodes")
    add("--gpus-per-node", metavar="N", type=count, help="ranks on each node")
    add("--image", metavar="IMAGE", help="image that tasks run in")
    add("--runtime", metavar="NAME", help="how tasks enter the image")
    add("--python", metavar="PATH", help="interpreter that tasks run with")
    add("--env", metavar="NAME[=VALUE]", action="append", help="set a variable, or pass this shell's on; repeatable")
    add("--mlm-source", metavar="SOURCE", help="a checkout of Megatron-LM, DIR, DIR@COMMIT or COMMIT")
    add("--mcore", metavar="SOURCE", help="the Megatron-Core of both runs: DIR, DIR@COMMIT, COMMIT, main or dev")
    add_run_root(parser)
    parser.set_defaults(rest=())


def main(parsed: argparse.Namespace) -> int:
    """Run and judge; the status is 0 where the two agree, else 1."""
    from launcher.correlate import correlate

    if _are_runs(parsed):
        found = _judge(parsed)
    else:
        pair = _pair(parsed)
        if parsed.emit:
            from launcher.correlate.scripts import emit

            for path in emit(pair, Path(parsed.emit).absolute()):
                info(f"wrote {path}")
            return 0
        found = _run(pair, parsed)
    if parsed.json:
        print_json(correlate.as_object(found))
    else:
        _print(found)
    return 0 if found.comparison.verdict.is_agreement else 1


def _are_runs(parsed: argparse.Namespace) -> bool:
    """Return whether both words name runs that exist: directories, run ids or names."""
    words = (parsed.left, parsed.right or "")
    return not parsed.vary and not any(
        word.startswith(("mlm:", "bridge:")) or word.endswith((".py", ".toml")) or ".py:" in word for word in words
    )


def _judge(parsed: argparse.Namespace) -> "Correlation":
    from launcher.api.locate import find_run
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate import correlate

    left, right = (find_run(name, parsed.run_root) for name in (parsed.left, parsed.right))
    pair = correlate.Pair(
        correlate.Training(""), correlate.Training(""), dropout=parsed.dropout, tolerance=parsed.tolerance
    )
    found = correlate.judge_runs(left, right, pair)
    output = Path(parsed.output).absolute() if parsed.output else right.path / "correlation"
    correlation = correlate.Correlation(found, found.settings, output)
    correlate.write(correlation, TerminalProgress())
    return correlation


def _pair(parsed: argparse.Namespace) -> "Pair":
    import dataclasses

    from launcher._util.errors import ConfigError
    from launcher.correlate.correlate import Pair, Training, read_pair

    options = {name: value for name in _OF_RUNS if (value := getattr(parsed, name, None)) is not None}
    given: dict[str, Any] = {"probe": parsed.probe, "fp32": parsed.fp32} if parsed.probe or parsed.fp32 else {}
    if parsed.left.endswith(".toml"):
        pair = read_pair(parsed.left, Path.cwd())
        given = {key: value or getattr(pair, key) for key, value in given.items()}
        return dataclasses.replace(pair, **given, options={**pair.options, **options})
    if parsed.vary:
        return _varied(parsed, options, given)
    if parsed.right is None:
        raise ConfigError("it correlates two trainings, and one is named", where=parsed.left)
    sides = []
    for recipe in (parsed.left, parsed.right):
        mlm = recipe.startswith("mlm:")
        own = {"mlm_source": parsed.mlm_source} if mlm and parsed.mlm_source else {}
        words = tuple(parsed.rest) if mlm else ()
        sides.append(Training(recipe, () if mlm else tuple(parsed.assignments), words, own))
    if parsed.rest and not any(side.is_megatron_lm for side in sides):
        raise ConfigError("arguments behind -- are Megatron-LM's, and neither side is", where="--")
    return Pair(
        sides[0],
        sides[1],
        match=parsed.match,
        dropout=parsed.dropout,
        tolerance=parsed.tolerance,
        repeats=parsed.repeats,
        options=options,
        **given,
    )


def _varied(parsed: argparse.Namespace, options: dict[str, Any], given: dict[str, Any]) -> "Pair":
    """Return the pair of one training with two values of a setting. Raises ConfigError."""
    from launcher._util.errors import ConfigError
    from launcher.correlate.correlate import Pair, Training

    key, _, text = parsed.vary.partition("=")
    values = text.split(",")
    if len(values) != 2:
        raise ConfigError("is KEY=A,B", where="--vary")
    mlm = parsed.left.startswith("mlm:")
    first = [parsed.right] if parsed.right else []
    if first and ("=" not in parsed.right or mlm):
        raise ConfigError("--vary runs LEFT twice, and takes no other side", where=parsed.right)
    own = {"mlm_source": parsed.mlm_source} if mlm and parsed.mlm_source else {}
    sides = [
        Training(parsed.left, (), (*parsed.rest, f"--{key.lstrip('-')}", value), own)
        if mlm
        else Training(parsed.left, (*first, *parsed.assignments, f"{key}={value}"))
        for value in values
    ]
    more = {"dropout": parsed.dropout, "tolerance": parsed.tolerance, "repeats": parsed.repeats}
    return Pair(sides[0], sides[1], match="none", options=options, **more, **given)


def _run(pair: "Pair", parsed: argparse.Namespace) -> "Correlation":
    from launcher.api.locate import find_cluster
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate.correlate import run_pair
    from launcher.correlate.running import Ended, Wanted, run_all

    progress = TerminalProgress()
    cluster, host = find_cluster(str(pair.options["cluster"]) if "cluster" in pair.options else None)
    on_cpu = cluster.device == "cpu" or (cluster.device == "auto" and not host.gpus)
    output = Path(parsed.output).absolute() if parsed.output else None

    def run(wanted: Sequence[Wanted]) -> Sequence[Ended]:
        return run_all(wanted, progress, at_once=parsed.at_once)

    return run_pair(pair, run, progress, on_cpu=on_cpu, output=output)


def _print(found: "Correlation") -> None:
    from launcher._util.tables import aligned
    from launcher.correlate.compare import iterations_table, table_of

    comparison = found.comparison
    verdict = comparison.verdict
    say("\n".join(aligned(table_of(comparison))))
    say("\n" + "\n".join(aligned(iterations_table(comparison.left.points, comparison.right.points))))
    for title, differences in (("as given these differed", found.stated), ("these differ", comparison.settings)):
        named = [one.text for one in differences if one.numbers]
        if named:
            say(f"\n{title}, and can change numbers:\n  " + "\n  ".join(named))
    for note in verdict.notes:
        info(f"note: {note}")
    say(f"\n{coloured(verdict.state, 'green' if verdict.is_agreement else 'red')}: {verdict.sentence}")
    info(f"verdict, plot and page: {found.directory}")
