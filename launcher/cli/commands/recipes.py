"""List recipes: the files that ship with the launcher, then Megatron Bridge's own with what each was written for.

In a shell:
  launcher recipes llama3
  launcher recipes --task pretrain --hardware gb200
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher._util.tables import aligned
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count

if TYPE_CHECKING:
    from launcher.discovery.recipe_index import IndexedRecipe

_HEAD = ("recipe", "model", "task", "GPUs", "hardware", "precision", "parallel")
_SIZES = {
    "TP": "model.tensor_model_parallel_size",
    "PP": "model.pipeline_model_parallel_size",
    "VP": "model.virtual_pipeline_model_parallel_size",
    "CP": "model.context_parallel_size",
    "EP": "model.expert_model_parallel_size",
    "ETP": "model.expert_tensor_parallel_size",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher recipes`."""
    add = parser.add_argument
    add("pattern", metavar="PATTERN", nargs="?", default="", help="only names that hold this text; * and ? as in files")
    add("--task", choices=("pretrain", "sft", "peft"), help="only recipes of this task")
    add("--gpus", metavar="N", type=count, help="only Bridge's recipes that were written for N GPUs")
    add("--hardware", metavar="H", help="only Bridge's recipes that were written for h100, b200, gb200, ...")
    add("--bridge", metavar="VERSION", help="list the recipes of this release (default: the newest known)")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """List recipes so that a name can be copied behind `launcher run`. Return 1 where there is none."""
    from launcher.api.recipes import list_recipes

    found = list_recipes(
        parsed.pattern, task=parsed.task, gpus=parsed.gpus, hardware=parsed.hardware, bridge=parsed.bridge
    )
    if parsed.json:
        shipped = [{"name": one.name, "path": str(one.path), "description": one.description} for one in found.shipped]
        bridge = {"version": found.version, "recipes": [_object(one) for one in found.bridge]}
        print_json({"recipes": shipped, "bridge": bridge})
        return 0 if found.shipped or found.bridge else 1
    if found.shipped:
        say("\n".join(aligned([(one.name, one.description) for one in found.shipped])))
    if found.bridge:
        say("\n".join([*([""] if found.shipped else []), *table(found.bridge, found.aliases)]))
    where = f" ({found.shipped[0].path.parent})" if found.shipped else ""
    info(
        f"{len(found.shipped)} that ship with the launcher{where}, "
        f"{len(found.bridge)} of Megatron Bridge {found.version}"
    )
    return 0 if found.shipped or found.bridge else 1


def table(recipes: "Iterable[IndexedRecipe]", aliases: Mapping[str, Sequence[str]]) -> list[str]:
    """Return lines in columns; the last column has a recipe's other names, or why nothing is known about it."""
    remarks = [(one, _remark(one, aliases)) for one in recipes]
    # The last column is not padded, so colours may add to its width.
    rows = [(*_row(one), coloured(remark, "dim", sys.stdout) if remark else "") for one, remark in remarks]
    head, *lines = aligned([(*_HEAD, ""), *rows])
    return [coloured(head, "bold", sys.stdout), *lines]


def _row(one: "IndexedRecipe") -> tuple[str, ...]:
    sizes = [f"{short}{one.values[key]}" for short, key in _SIZES.items() if one.values.get(key, 1) != 1]
    nothing = "?" if one.not_run else "DP"
    cells = (one.model, one.task, one.gpus, one.hardware, one.precision, " ".join(sizes) or nothing)
    name = one.name if one.elsewhere else f"bridge:{one.name}"
    return (name, *(str(cell or "-") for cell in cells))


def _remark(one: "IndexedRecipe", aliases: Mapping[str, Sequence[str]]) -> str:
    if one.not_run:
        return f"not known: {one.not_run}"
    if one.elsewhere:
        return f"only in {one.module}: import it in a recipe file"
    names = aliases.get(one.name)
    return f"also {', '.join(names)}" if names else ""


def _object(one: "IndexedRecipe") -> dict[str, Any]:
    return {key: value for key, value in vars(one).items() if value is not None}
