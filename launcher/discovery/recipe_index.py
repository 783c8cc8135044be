"""Megatron Bridge's recipes by name, without Megatron Bridge: read from what tools/bridge_recipes.py has written."""

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import RecipeError
from launcher._util.resources import resource
from launcher.contract.recipe_arguments import successors
from launcher.contract.values import nearest
from launcher.discovery.recipe import BridgeRecipe

_PLACE = "configs/bridge"


@dataclass(frozen=True)
class IndexedRecipe:
    """What is known of one recipe without running it. None where neither its name says it nor running it showed it."""

    name: str
    package: str
    """recipes, or perf_recipes: those behind Bridge's published throughput."""

    module: str
    family: str
    model: str | None
    task: str | None
    """pretrain, sft or peft."""

    gpus: int | None
    """As many as it was written for."""

    hardware: str | None
    precision: str | None
    values: Mapping[str, Any]
    """By key of the configuration: parallel sizes, batch sizes, dispatcher; only what the recipe decides."""

    env: Mapping[str, str] | None
    """Its env_vars; None where it could not be run."""

    fetches: tuple[str, ...] = ()
    """Names on Hugging Face's hub of what it reads: the architecture, the tokenizer."""

    parameters: tuple[str, ...] = ()
    alias_of: str | None = None
    not_run: str | None = None
    """Why it could not be run for the index."""

    elsewhere: bool = False
    """Whether `bridge:` does not reach it: Bridge has the function, and its package does not name it."""


@dataclass(frozen=True)
class Index:
    """All recipes of one release."""

    version: str
    recipes: Mapping[str, IndexedRecipe]

    def require(self, name: str) -> IndexedRecipe:
        """The recipe of that name. Raises RecipeError with near misses."""
        found = self.recipes.get(name)
        if found is not None and found.elsewhere:
            raise RecipeError(
                f"Megatron Bridge {self.version} has {name!r} in {found.module} alone, where `bridge:` does not look",
                where=f"bridge:{name}",
                hint=f"Write a recipe file with the line: from {found.module} import {name} as configure",
            )
        if found is not None:
            return found
        reachable = [each for each, one in self.recipes.items() if not one.elsewhere]
        now = successors(name, reachable)
        if now:
            raise RecipeError(
                f"Megatron Bridge {self.version} has no recipe {name!r}: since 0.3.1 it is {' or '.join(now)}",
                where=f"bridge:{name}",
                hint="The first trains all weights (sft), the other adapters (peft), as their names say: choose one.",
            )
        near = nearest(name, reachable, count=5)
        listing = f"launcher recipes {name.partition('_')[0]}"
        raise RecipeError(
            f"Megatron Bridge {self.version} has no recipe {name!r}",
            where=f"bridge:{name}",
            hint=f"Did you mean {', '.join(near)}?" if near else f"`{listing}` lists those that there are.",
        )


def versions() -> list[str]:
    """The releases with an index, oldest first."""
    names = (path.stem.removeprefix("recipes-") for path in resource(_PLACE).glob("recipes-*.json"))
    return sorted(names, key=lambda text: [int(part) for part in text.split(".") if part.isdigit()])


def load_index(version: str | None = None) -> Index:
    """The index of a release, by default of the newest that has one. Raises RecipeError for one that has none."""
    known = versions()
    if version is not None and version not in known:
        raise RecipeError(f"there is no index of Megatron Bridge {version}", hint=f"There is: {', '.join(known)}.")
    return _read(resource(f"{_PLACE}/recipes-{version or known[-1]}.json"))


@dataclass(frozen=True)
class IndexMatch:
    """What the index says of the recipe that was asked for; `recipe` is None where it says nothing that counts here."""

    version: str
    """The release that the index is of."""

    recipe: IndexedRecipe | None
    warnings: tuple[str, ...] = ()
    fine_tuning: tuple[str, ...] = ()
    """Recipes that fine-tune the same model, plain names first."""


def lookup(name: str, version: str | None) -> IndexMatch:
    """Look for a recipe; `version` is the release that the job will find, None where nobody can tell.

    Of a release without an index the names may be others, and so may sizes and environment: there it only warns.
    Raises RecipeError for a name that this release, or as far as is known the newest, does not have.
    """
    plain = None if version in (None, "unknown") else str(version).partition("+")[0]
    index = load_index(plain if plain in versions() else None)
    if plain in (None, index.version):
        found = index.require(name)
        return IndexMatch(index.version, found, fine_tuning=_fine_tuning(index, found))
    if name in index.recipes:
        return IndexMatch(index.version, None)
    text = (
        f"Megatron Bridge {index.version} has no recipe {name!r}; the job finds release {plain}, whose recipes are not "
        "known here, so it will tell"
    )
    return IndexMatch(index.version, None, (text,))


def with_index_info(recipe: BridgeRecipe, index_match: IndexMatch | None) -> BridgeRecipe:
    """The recipe with what the index has of its function; unchanged where that is nothing."""
    if index_match is None or index_match.recipe is None:
        return recipe
    return BridgeRecipe(recipe.name, index_match.recipe.parameters, index_match.recipe.task)


def _fine_tuning(index: Index, recipe: IndexedRecipe) -> tuple[str, ...]:
    names = [
        one.name
        for one in index.recipes.values()
        if one.task in ("sft", "peft") and one.model == recipe.model and not one.elsewhere
    ]
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def installed_version(directories: tuple[str, ...] | None = None) -> str | None:
    """The release of Megatron Bridge beside this launcher, by the name of its metadata; nothing is imported."""
    for directory in sys.path if directories is None else directories:
        for found in Path(directory or ".").glob("megatron_bridge-*.dist-info"):
            return found.name.removesuffix(".dist-info").partition("-")[2]
    return None


@functools.cache
def _read(path: Path) -> Index:
    content = json.loads(path.read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = content["recipes"]
    keys: dict[str, str] = content["keys"]
    recipes = {}
    for name, entry in entries.items():
        alias_of = entry.get("alias_of")
        recipes[name] = _recipe(name, entries[alias_of] if alias_of else entry, keys, alias_of)
    return Index(content["bridge"], recipes)


def _recipe(name: str, entry: dict[str, Any], keys: dict[str, str], alias_of: str | None) -> IndexedRecipe:
    tokenizer = entry.get("tokenizer")
    fetches = [*entry.get("asks_hub", ()), *([tokenizer] if tokenizer else ())]
    return IndexedRecipe(
        name=name,
        package=entry["package"],
        module=entry["module"],
        family=entry["family"],
        model=entry.get("model"),
        task=entry.get("task"),
        gpus=entry.get("gpus"),
        hardware=entry.get("hardware"),
        precision=entry.get("precision") or entry.get("mixed_precision"),
        values={key: entry[short] for short, key in keys.items() if short in entry},
        env=None if "not_run" in entry else entry.get("env", {}),
        fetches=tuple(dict.fromkeys(fetches)),
        parameters=tuple(entry.get("parameters", ())),
        alias_of=alias_of,
        not_run=entry.get("not_run"),
        elsewhere=entry.get("elsewhere", False),
    )
