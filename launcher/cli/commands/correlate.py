"""Run two trainings with matched settings, and say whether they are the same.

  launcher correlate mlm:gpt bridge:vanilla_gpt_pretrain_config [KEY=VALUE ...] -- ARGUMENTS
  launcher correlate FILE.toml
  launcher correlate RECIPE --vary AXIS=A,B    two values of a setting, two commits or images
  launcher correlate RUN RUN                   judge two runs that have ended

The left side's settings are given to the right side (--match). The verdict, a plot and a page lie in the directory
`correlation` of the second run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.arguments import add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count

if TYPE_CHECKING:
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate.correlate import Correlation, Pair, Run

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
        help="run so many at a time, each on GPUs of its own if possible",
    )
    add("--tolerance", metavar="X", type=float, help="the relative difference of losses that is none")
    add(
        "--vary",
        metavar="AXIS=A,B",
        action="append",
        help="run LEFT with these two values of a setting (a key of Bridge, an argument of Megatron-LM) or of image, "
        "mcore, commit, mlm-source, env.NAME, runtime, python, nodes, gpus-per-node; repeatable",
    )
    add("--bisect", action="store_true", help="find the first of the changes, and of commits, that makes a difference")
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

            _refuse(parsed, ("bisect", "repeats", "at_once", "output", "json"), "--emit runs nothing")
            for path in emit(pair, Path(parsed.emit).absolute()):
                info(f"wrote {path}")
            return 0
        if parsed.bisect:
            return _bisect(pair, parsed)
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


def _refuse(parsed: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuse options that would have no effect. Raises ConfigError."""
    from launcher._util.errors import ConfigError

    for name in names:
        if getattr(parsed, name, None):
            where = {"rest": "--", "assignments": parsed.assignments and parsed.assignments[0]}.get(name)
            raise ConfigError(why, where=where or f"--{name.replace('_', '-')}", hint="Leave it out.")


_OF_TRAININGS = ("match", "fp32", "probe", "repeats", "at_once", "vary", "bisect", "emit", "mlm_source", "rest")


def _judge(parsed: argparse.Namespace) -> "Correlation":
    from launcher._util.errors import ConfigError
    from launcher.api.locate import find_run
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate import correlate

    if parsed.right is None:
        raise ConfigError("it correlates two trainings, and one is named", where=parsed.left)
    _refuse(
        parsed,
        (*_OF_TRAININGS, *(name for name in _OF_RUNS if name != "run_root"), "assignments"),
        "both runs have ended",
    )
    left, right = (find_run(name, parsed.run_root) for name in (parsed.left, parsed.right))
    nothing = correlate.Training("")
    pair = correlate.Pair(nothing, nothing, dropout=parsed.dropout, tolerance=parsed.tolerance or 0.0)
    found = correlate.judge_runs(left, right, pair)
    output = Path(parsed.output).absolute() if parsed.output else right.path / "correlation"
    correlation = correlate.Correlation(found, found.settings, output)
    correlate.write(correlation, TerminalProgress())
    return correlation


def _pair(parsed: argparse.Namespace) -> "Pair":
    import dataclasses

    from launcher.correlate.correlate import read_pair

    options = {name: value for name in _OF_RUNS if (value := getattr(parsed, name, None)) is not None}
    names = ("match", "fp32", "dropout", "probe", "tolerance", "repeats")
    # By identity: a dropout and a tolerance of 0 are equal to False, and given.
    given = {name: value for name in names if (value := getattr(parsed, name)) is not None and value is not False}
    if parsed.left.endswith(".toml"):
        words = "the file says what runs; it takes options beside itself"
        if parsed.right is not None:
            parsed.assignments = [parsed.right, *parsed.assignments]
        _refuse(parsed, ("assignments", "rest", "vary", "mlm_source"), words)
        pair = read_pair(parsed.left, Path.cwd())
        options = {**pair.options, **options}
    else:
        pair = _of_one(parsed) if parsed.vary else _of_two(parsed)
    return dataclasses.replace(pair, options=options, **given)


def _of_two(parsed: argparse.Namespace) -> "Pair":
    """Return the pair of two trainings that are named. Raises ConfigError."""
    from launcher._util.errors import ConfigError
    from launcher.correlate.correlate import Pair, Training

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
    if parsed.assignments and all(side.is_megatron_lm for side in sides):
        raise ConfigError("Megatron-LM takes no overrides, and both sides are", where=parsed.assignments[0])
    return Pair(sides[0], sides[1])


def _of_one(parsed: argparse.Namespace) -> "Pair":
    """Return the pair of one training with two values of each axis of --vary. Raises ConfigError."""
    from launcher._util.errors import ConfigError
    from launcher.correlate.axes import changed, read_axis
    from launcher.correlate.correlate import Pair, Training

    mlm = parsed.left.startswith("mlm:")
    assignments = [*([parsed.right] if parsed.right else []), *parsed.assignments]
    if assignments and ("=" not in assignments[0] or mlm):
        raise ConfigError("--vary runs LEFT twice, and takes no other side", where=assignments[0])
    if parsed.match not in (None, "none"):
        raise ConfigError("--vary sets the two apart, and --match would make them the same", where="--match")
    if parsed.rest and not mlm:
        raise ConfigError("arguments behind -- are Megatron-LM's, and LEFT is a recipe", where="--")
    own = {"mlm_source": parsed.mlm_source} if parsed.mlm_source else {}
    left = right = Training(parsed.left, tuple(assignments), tuple(parsed.rest), own)
    for text in parsed.vary:
        axis, first, second = read_axis(text)
        left, right = changed(left, axis, first), changed(right, axis, second)
    return Pair(left, right, match="none")


def _run(pair: "Pair", parsed: argparse.Namespace) -> "Correlation":
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate.correlate import run_pair

    progress = TerminalProgress()
    output = Path(parsed.output).absolute() if parsed.output else None
    return run_pair(pair, _runner(parsed, progress), progress, on_cpu=_on_cpu(pair), output=output)


def _bisect(pair: "Pair", parsed: argparse.Namespace) -> int:
    """Find the first change that makes a difference; the status is 0 where there is none, else 1."""
    from launcher.cli.progress import TerminalProgress
    from launcher.correlate import bisect

    progress = TerminalProgress()
    run = _runner(parsed, progress)
    found = bisect.bisect(pair, run, progress, on_cpu=_on_cpu(pair), directory=Path.cwd())
    if parsed.output:
        bisect.write(found, Path(parsed.output).absolute())
    if parsed.json:
        print_json(bisect.as_object(found))
    else:
        for one in found.tried:
            say(f"{'differs ' if one.differs else 'the same'}  {one.name}  {one.run.path}")
        say(f"\n{found.sentence}")
    return 1 if found.first else 0


def _runner(parsed: argparse.Namespace, progress: "TerminalProgress") -> "Run":
    from launcher.correlate.running import Ended, Wanted, run_all

    def run(wanted: Sequence[Wanted]) -> Sequence[Ended]:
        return run_all(wanted, progress, at_once=parsed.at_once or 1)

    return run


def _on_cpu(pair: "Pair") -> bool:
    from launcher.api.locate import find_cluster

    cluster, host = find_cluster(str(pair.options["cluster"]) if "cluster" in pair.options else None)
    return cluster.device == "cpu" or (cluster.device == "auto" and not host.gpus)


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
