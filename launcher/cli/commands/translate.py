"""Translate a command line of Megatron-LM into overrides of Megatron Bridge, and back; every argument is accounted for.

In a shell:
  launcher translate --to bridge -- --num-layers 32 --swiglu --bf16 ...
  launcher translate --to bridge --yaml DeepSeek-V3.yaml
  launcher translate --to mlm bridge:llama32_1b_pretrain_config train.train_iters=1000
"""

import argparse
import shlex
from collections import Counter
from typing import TYPE_CHECKING

from launcher.cli.completion import complete
from launcher.cli.output import info, print_json, say

if TYPE_CHECKING:
    from launcher.translation.translate import Item, Translation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher translate`."""
    add = parser.add_argument
    complete(add("recipe", metavar="RECIPE", nargs="?", help="to Megatron-LM: bridge:NAME or path.py"), "recipes")
    complete(add("assignments", metavar="KEY=VALUE", nargs="*", help="to Megatron-LM: its overrides"), "keys")
    add("--to", choices=("bridge", "mlm"), required=True, help="Megatron Bridge, or Megatron-LM")
    add("--yaml", metavar="FILE", help="read Megatron-LM's arguments from a YAML file; those behind -- are added")
    add(
        "--as-given",
        action="store_true",
        help="translate what is given alone, without what the other side decides otherwise by default",
    )
    add("--emit", choices=("words", "recipe"), default="words", help="overrides (default), or a recipe file")
    add("--all", action="store_true", help="show what became of each argument, not only of those not translated")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(rest=())


def main(parsed: argparse.Namespace) -> int:
    """Translate; the status is 1 where something that was given is not said on the other side."""
    from launcher._util.errors import ConfigError
    from launcher.translation.table import load_table

    _check(parsed, ConfigError)
    found = _to_bridge(parsed) if parsed.to == "bridge" else _to_mlm(parsed)
    if parsed.json:
        from launcher.translation.emit import as_object

        table = load_table()
        print_json(
            {
                "to": parsed.to,
                "core": table.core,
                "bridge": table.bridge,
                "words": list(found.words),
                "complete": found.complete,
                "items": as_object(found.items),
                "defaults": as_object(found.defaults),
            }
        )
    elif parsed.emit == "recipe":
        from launcher.translation.emit import recipe_source

        say(recipe_source(found.words, shlex.join(_arguments(parsed))), end="")
    else:
        say(shlex.join(found.words))
    if not parsed.json:
        _explain(found, everything=parsed.all)
    return 0 if found.complete else 1


def _check(parsed: argparse.Namespace, error: type[Exception]) -> None:
    if parsed.to == "bridge" and (parsed.recipe or parsed.assignments):
        raise error(f"unexpected argument {parsed.recipe!r}: write Megatron-LM's arguments behind --")
    if parsed.to == "bridge" and not (parsed.rest or parsed.yaml):
        raise error("there is nothing to translate: write Megatron-LM's arguments behind --, or name a --yaml FILE")
    if parsed.to == "mlm" and (parsed.rest or parsed.yaml or parsed.emit == "recipe"):
        raise error("--yaml, --emit recipe and arguments behind -- belong to --to bridge")
    if parsed.to == "mlm" and not parsed.recipe:
        raise error("which recipe? bridge:NAME, or path.py")


def _arguments(parsed: argparse.Namespace) -> list[str]:
    from pathlib import Path

    from launcher.translation.yaml_arguments import read_yaml

    return [*(read_yaml(parsed.yaml, Path.cwd()) if parsed.yaml else ()), *parsed.rest]


def _to_bridge(parsed: argparse.Namespace) -> "Translation":
    from launcher.translation.translate import to_bridge

    return to_bridge(_arguments(parsed), defaults=not parsed.as_given)


def _to_mlm(parsed: argparse.Namespace) -> "Translation":
    from pathlib import Path

    from launcher._util.errors import OverrideError
    from launcher.api.recipe_values import recipe_values
    from launcher.contract.values import Refused
    from launcher.translation.translate import to_mlm

    base = recipe_values(parsed.recipe, Path.cwd())
    try:
        return to_mlm(parsed.assignments, base=base, defaults=not parsed.as_given)
    except Refused as error:
        raise OverrideError(error.message, hint=error.hint) from None


def _explain(found: "Translation", *, everything: bool) -> None:
    """Say on standard error what became of the arguments."""
    from launcher._util.tables import aligned

    count: Counter[str] = Counter(one.outcome for one in found.items)
    names = {"translated": "translated", "default": "default anyway", "none": "no counterpart", "unknown": "unknown"}
    info("; ".join(f"{count[key]} {name}" for key, name in names.items() if count[key]))
    shown = [one for one in found.items if everything or one.outcome in ("none", "unknown")]
    if shown:
        info("\n".join(aligned([(one.text, _what(one)) for one in shown])))
    if found.defaults:
        info("added, as the other side decides it otherwise by default:")
        info("\n".join(aligned([(one.text, " ".join(one.said)) for one in found.defaults])))


def _what(item: "Item") -> str:
    if item.outcome == "translated":
        return " ".join(item.said)
    return f"{item.reason}: {item.why}" if item.reason else f"{item.outcome}: {item.why}"
