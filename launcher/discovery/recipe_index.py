"""The index of Megatron Bridge's recipes, read from files that tools/bridge_recipes.py has generated."""

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from launcher._util.errors import RecipeError
from launcher._util.resources import resource
from launcher.contract.frozen import dataclass
from launcher.contract.recipe_arguments import successors
from launcher.contract.values import nearest
from launcher.discovery.recipe import BridgeRecipe, RecipeFile
from launcher.discovery.shipped_code import imported_files

_DIRECTORY = "configs/bridge"

SHIPPED = "launcher"
"""In place of a package of Megatron Bridge: of the recipe files that ship."""


@dataclass(frozen=True)
class IndexedRecipe:
    """An entry of the index; a field is None if neither the recipe's name nor running the recipe showed its value."""

    name: str
    package: str
    """`recipes`, `perf_recipes` for those behind Bridge's published throughput, or SHIPPED."""

    module: str
    family: str
    model: str | None
    task: str | None
    """pretrain, sft or peft."""

    gpus: int | None
    """The number of GPUs that it was written for."""

    hardware: str | None
    precision: str | None
    mixed_precision: str | None
    """What it computes in: the name of Bridge's plan, or `bf16 with fp8 mxfp8`."""
    values: Mapping[str, Any]
    """Values that the recipe sets, by key of the configuration: parallel sizes, batch sizes, dispatcher."""

    env: Mapping[str, str] | None
    """Its env_vars; None if it could not be run."""

    fetches: tuple[str, ...] = ()
    """Names of Hugging Face repositories that it reads: the architecture, the tokenizer."""

    tokenizer: str | None = None
    """The one of them whose tokenizer the run itself loads."""
    parameters: tuple[str, ...] = ()
    alias_of: str | None = None
    not_run: str | None = None
    """Why it could not be run for the index."""

    elsewhere: bool = False
    """Whether `bridge:` cannot name it: Bridge has the function, but its package does not export it."""

    altered_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each value that depends on the recipe's arguments, by key, the parameters that change it."""


@dataclass(frozen=True)
class Index:
    """All recipes of one release of Megatron Bridge."""

    version: str
    recipes: Mapping[str, IndexedRecipe]
    shadowed: Mapping[str, str] = field(default_factory=dict)
    """For each name that two recipes of Bridge have: the module of the one that `bridge:` does not reach."""
    shipped: Mapping[str, IndexedRecipe] = field(default_factory=dict)
    """The recipe files that the launcher ships, by `content_digest`."""

    def require(self, name: str) -> IndexedRecipe:
        """Return the recipe of that name. Raises RecipeError with the nearest names if there is none."""
        found = self.recipes.get(name)
        if found is not None and found.elsewhere:
            raise RecipeError(
                f"Megatron Bridge {self.version} has {name!r} only in {found.module}, which `bridge:` does not search",
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
                hint="Choose one: the first trains all weights (sft), the second trains adapters (peft).",
            )
        near = nearest(name, reachable, count=5)
        listing = f"launcher recipes {name.partition('_')[0]}"
        raise RecipeError(
            f"Megatron Bridge {self.version} has no recipe {name!r}",
            where=f"bridge:{name}",
            hint=f"Did you mean {', '.join(near)}?" if near else f"`{listing}` lists the recipes.",
        )


def versions() -> list[str]:
    """Return the releases that have an index, oldest first."""
    names = (path.stem.removeprefix("recipes-") for path in resource(_DIRECTORY).glob("recipes-*.json"))
    return sorted(names, key=lambda text: [int(part) for part in text.split(".") if part.isdigit()])


def load_index(version: str | None = None) -> Index:
    """Return the index of a release, by default the newest indexed one.

    Raises RecipeError for a release without an index.
    """
    known = versions()
    if version is not None and version not in known:
        raise RecipeError(
            f"there is no index of Megatron Bridge {version}", hint=f"Releases with an index: {', '.join(known)}."
        )
    return _read(resource(f"{_DIRECTORY}/recipes-{version or known[-1]}.json"))


@dataclass(frozen=True)
class IndexMatch:
    """The index entry of a requested recipe; `recipe` is None if the index does not cover the job's release."""

    version: str
    """The release that the index describes."""

    recipe: IndexedRecipe | None
    warnings: tuple[str, ...] = ()
    fine_tuning: tuple[str, ...] = ()
    """Names of recipes that fine-tune the same model, the shortest first."""


def _plain(version: str | None) -> str | None:
    """Return the release without the local part of its version; None if it is unknown."""
    return None if version in (None, "unknown") else str(version).partition("+")[0]


def lookup(name: str, version: str | None) -> IndexMatch:
    """Look up a recipe; `version` is the release that the job will find, None if it is unknown.

    A release without an index may have other names, sizes and environment variables, so a name that the newest index
    lacks is only a warning there. Raises RecipeError if the index of this release, or of the newest if the release is
    unknown, does not have the name.
    """
    plain = _plain(version)
    index = load_index(plain if plain in versions() else None)
    if plain in (None, index.version):
        found = index.require(name)
        return IndexMatch(index.version, found, _other_recipe(index, found), _fine_tuning(index, found))
    if name in index.recipes:
        return IndexMatch(index.version, None)
    text = (
        f"Megatron Bridge {index.version} has no recipe {name!r}; the job uses release {plain}, which has no index: "
        "whether the recipe exists is known only in the job"
    )
    return IndexMatch(index.version, None, (text,))


def _other_recipe(index: Index, recipe: IndexedRecipe) -> tuple[str, ...]:
    module = index.shadowed.get(recipe.name)
    if module is None:
        return ()
    text = (
        f"Megatron Bridge {index.version} has two recipes of this name: bridge: runs the one in {recipe.module}; the "
        f"published benchmark is another, and a recipe file names it: from {module} import {recipe.name} as configure"
    )
    return (text,)


def lookup_file(recipe: RecipeFile, version: str | None) -> IndexMatch | None:
    """Look up a recipe file that the launcher ships, or an unchanged copy; None for any other, and another release.

    `version` is the release that the job will find, None if it is unknown.
    """
    plain = _plain(version)
    if recipe.function != "configure" or plain not in (None, *versions()):
        return None
    index = load_index(plain)
    found = index.shipped.get(content_digest(recipe))
    return IndexMatch(index.version, found) if found is not None else None


def content_digest(recipe: RecipeFile) -> str:
    """Return a digest of the recipe's file, and of the files beside it that it imports. Raises OSError."""
    digest = hashlib.sha256()
    for path in (recipe.path, *imported_files(recipe.path)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def with_index_info(recipe: BridgeRecipe, index_match: IndexMatch | None) -> BridgeRecipe:
    """Return the recipe with parameters and task from the index; unchanged if the index has no entry."""
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


def version_of(metadata: Path) -> str:
    """Return the version in the name of a package's .dist-info directory."""
    return metadata.name.removesuffix(".dist-info").partition("-")[2]


def installed_metadata(directories: tuple[str, ...] | None = None) -> Path | None:
    """Return the directory with the metadata of the Megatron Bridge beside this launcher; None if there is none.

    Nothing is imported. `directories` replaces sys.path.
    """
    for directory in sys.path if directories is None else directories:
        for found in Path(directory or ".").glob("megatron_bridge-*.dist-info"):
            return found
    return None


@functools.cache
def _read(path: Path) -> Index:
    content = json.loads(path.read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = content["recipes"]
    keys: dict[str, str] = content["keys"]

    def recipe(name: str) -> IndexedRecipe:
        alias_of = entries[name].get("alias_of")
        return _recipe(name, entries[alias_of or name], keys, alias_of)

    def shipped(digest: str) -> IndexedRecipe:
        entry = content["shipped"][digest]
        return _recipe(entry["file"], {"package": SHIPPED, "module": entry["file"], "family": "", **entry}, keys, None)

    named = _Entries(entries, recipe)
    return Index(content["bridge"], named, content["shadowed"], _Entries(content["shipped"], shipped))


class _Entries(Mapping[str, IndexedRecipe]):
    """The entries of an index, read one by one: a plan needs one of a thousand."""

    def __init__(self, keys: Collection[str], read: Callable[[str], IndexedRecipe]) -> None:
        self._keys = keys
        self._read = functools.cache(read)

    def __getitem__(self, key: str) -> IndexedRecipe:
        if key not in self._keys:
            raise KeyError(key)
        return self._read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


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
        mixed_precision=entry.get("mixed_precision") or entry.get("precision"),
        values={key: entry[short] for short, key in keys.items() if short in entry},
        env=None if "not_run" in entry else entry.get("env", {}),
        fetches=tuple(dict.fromkeys(fetches)),
        tokenizer=tokenizer,
        parameters=tuple(entry.get("parameters", ())),
        alias_of=alias_of,
        not_run=entry.get("not_run"),
        elsewhere=entry.get("elsewhere", False),
        altered_by={keys[short]: tuple(names) for short, names in entry.get("altered_by", {}).items()},
    )
