"""The recipes that ship with the launcher, and those of Megatron Bridge."""

import ast
import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

from launcher.discovery.recipe import shipped_recipes
from launcher.discovery.recipe_index import Index, IndexedRecipe, load_index


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe file that ships with the launcher."""

    path: Path
    description: str

    @property
    def name(self) -> str:
        """Return what `run` and `submit` take for it from any directory."""
        return self.path.stem


@dataclass(frozen=True)
class RecipeList:
    """The recipes that were searched for."""

    shipped: tuple[ShippedRecipe, ...]
    bridge: tuple[IndexedRecipe, ...]
    version: str
    """The release of Megatron Bridge that `bridge` is of."""
    aliases: dict[str, list[str]]
    """Other names of Bridge's recipes."""


def list_recipes(
    pattern: str = "",
    *,
    task: str | None = None,
    gpus: int | None = None,
    hardware: str | None = None,
    bridge: str | None = None,
) -> RecipeList:
    """Return the recipes whose name holds `pattern` (`*` and `?` as in file names) and that fit the rest.

    `gpus` and `hardware` are what a recipe of Bridge's was written for; `bridge` is the release, by default the newest
    known. Raises RecipeError for a release without an index.
    """
    index = load_index(bridge)
    pattern = pattern.removeprefix("bridge:")
    pattern = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    shipped = () if gpus is not None or hardware is not None else tuple(_shipped(pattern, task))
    found = select(index, pattern, task=task, gpus=gpus, hardware=hardware)
    return RecipeList(shipped, tuple(found), index.version, _aliases(index))


def select(
    index: Index, pattern: str, *, task: str | None = None, gpus: int | None = None, hardware: str | None = None
) -> list[IndexedRecipe]:
    """Return the recipes of an index that fit, each once: one whose alias matches is there under its own name."""
    own = dict.fromkeys(
        one.alias_of or one.name for one in index.recipes.values() if fnmatch.fnmatch(one.name, pattern)
    )
    wanted = {"task": task, "gpus": gpus, "hardware": hardware.lower() if hardware else None}
    found = [index.recipes[name] for name in own]
    found = [one for one in found if all(value in (None, getattr(one, key)) for key, value in wanted.items())]
    # As numbers: 8 GPUs before 64.
    return sorted(found, key=lambda one: (one.package == "perf_recipes", one.family, _natural(one.name)))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _aliases(index: Index) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in index.recipes.values():
        if one.alias_of:
            found.setdefault(one.alias_of, []).append(one.name)
    return found


def _shipped(pattern: str, task: str | None) -> list[ShippedRecipe]:
    """Return the shipped files, which are for any number of any GPU; their task is in their name."""
    paths = [path for path in shipped_recipes().values() if fnmatch.fnmatch(path.name, pattern)]
    words = {"peft": ("peft", "lora", "dora")}.get(task or "", (task,))
    paths = [path for path in paths if task is None or any(word in path.stem.split("_") for word in words)]
    return [ShippedRecipe(path, _first_line(path)) for path in paths]


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
