"""List recipes: the files that ship with the launcher, then Megatron Bridge's own with what each was written for."""

import argparse
import ast
import fnmatch
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher._util.resources import resource
from launcher._util.tables import aligned
from launcher.cli.output import coloured, print_json, say
from launcher.discovery.recipe_index import Index, IndexedRecipe, load_index

TASKS = ("pretrain", "sft", "peft")
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
    """Options of `launcher recipes`."""
    add = parser.add_argument
    add("pattern", metavar="PATTERN", nargs="?", default="", help="only names that hold this text; * and ? as in files")
    add("--task", choices=TASKS, help="only recipes of this task")
    add("--gpus", metavar="N", type=int, help="only Bridge's recipes that were written for N GPUs")
    add("--hardware", metavar="H", help="only Bridge's recipes that were written for h100, b200, gb200, ...")
    add("--bridge", metavar="VERSION", help="list the recipes of this release (default: the newest known)")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """List recipes so that a name can be copied behind `launcher run`. 1 where there is none."""
    index = load_index(parsed.bridge)
    pattern = parsed.pattern.removeprefix("bridge:")
    pattern = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    files = _files(parsed, pattern)
    found = selected(index, pattern, task=parsed.task, gpus=parsed.gpus, hardware=parsed.hardware)
    if parsed.json:
        shipped = [{"path": str(path), "description": _first_line(path)} for path in files]
        print_json(
            {"recipes": shipped, "bridge": {"version": index.version, "recipes": [_object(one) for one in found]}}
        )
        return 0
    for path in files:
        print(f"{_shown(path)}  {_first_line(path)}")
    if found:
        print(*([""] if files else []), *table(found, _aliases(index)), sep="\n")
    say(f"{len(files)} that ship with the launcher, {len(found)} of Megatron Bridge {index.version}")
    return 0 if files or found else 1


def selected(
    index: Index, pattern: str, *, task: str | None = None, gpus: int | None = None, hardware: str | None = None
) -> list[IndexedRecipe]:
    """The recipes that fit, each once: one whose other name matches is there under its own."""
    own = dict.fromkeys(
        one.alias_of or one.name for one in index.recipes.values() if fnmatch.fnmatch(one.name, pattern)
    )
    wanted = {"task": task, "gpus": gpus, "hardware": hardware.lower() if hardware else None}
    found = [index.recipes[name] for name in own]
    found = [one for one in found if all(value in (None, getattr(one, key)) for key, value in wanted.items())]
    # As numbers: 8 GPUs before 64.
    return sorted(found, key=lambda one: (one.package == "perf_recipes", one.family, _natural(one.name)))


def table(recipes: Iterable[IndexedRecipe], aliases: dict[str, list[str]]) -> list[str]:
    """Lines in columns; the last one has what a recipe is called besides, or why nothing is known of it."""
    remarks = [(one, _remark(one, aliases)) for one in recipes]
    # The last column: what colours add to its width is nobody's.
    rows = [(*_row(one), coloured(remark, "dim", sys.stdout) if remark else "") for one, remark in remarks]
    head, *lines = aligned([(*_HEAD, ""), *rows])
    return [coloured(head, "bold", sys.stdout), *lines]


def _row(one: IndexedRecipe) -> tuple[str, ...]:
    sizes = [f"{short}{one.values[key]}" for short, key in _SIZES.items() if one.values.get(key, 1) != 1]
    nothing = "?" if one.not_run else "DP"
    cells = (one.model, one.task, one.gpus, one.hardware, one.precision, " ".join(sizes) or nothing)
    name = one.name if one.elsewhere else f"bridge:{one.name}"
    return (name, *(str(cell or "-") for cell in cells))


def _remark(one: IndexedRecipe, aliases: dict[str, list[str]]) -> str:
    if one.not_run:
        return f"not known: {one.not_run}"
    if one.elsewhere:
        return f"only in {one.module}: import it in a recipe file"
    names = aliases.get(one.name)
    return f"also {', '.join(names)}" if names else ""


def _aliases(index: Index) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in index.recipes.values():
        if one.alias_of:
            found.setdefault(one.alias_of, []).append(one.name)
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _object(one: IndexedRecipe) -> dict[str, Any]:
    return {key: value for key, value in vars(one).items() if value is not None}


def _files(parsed: argparse.Namespace, pattern: str) -> list[Path]:
    """Shipped recipes are for any number of any GPU; their task is in their name."""
    if parsed.gpus is not None or parsed.hardware is not None:
        return []
    paths = [path for path in sorted(resource("recipes").glob("*.py")) if fnmatch.fnmatch(path.name, pattern)]
    words = {"peft": ("peft", "lora", "dora")}.get(parsed.task, (parsed.task,))
    return [path for path in paths if parsed.task is None or any(word in path.stem.split("_") for word in words)]


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
