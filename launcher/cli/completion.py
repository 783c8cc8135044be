"""What the shell's Tab offers besides commands and options: profiles, runs, images, recipes, configuration keys."""

import argparse
import os
from typing import Any


def complete(action: argparse.Action, what: str) -> None:
    """Let argcomplete offer `clusters`, `runs`, `images`, `recipes`, `topics` or `keys` for an argument."""
    known = {"clusters": _clusters, "runs": _runs, "images": _images, "recipes": _recipes, "keys": _keys}
    known["phases"] = _run_phases
    known["topics"] = _topics
    action.completer = known[what]  # type: ignore[attr-defined]


def _clusters(**_: Any) -> list[str]:
    from launcher.config.load import cluster_names

    return sorted(cluster_names(os.environ))


def _run_phases(**_: Any) -> list[str]:
    from launcher.watch.status import Phase

    return [phase.value for phase in Phase]


def _topics(**_: Any) -> list[str]:
    from launcher.api.help import topics

    return [topic.name for topic in topics()]


_MOST_RUNS = 100
"""Ids that are offered at once, the newest: argcomplete compares each with all others, and people type names."""


def _runs(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    from launcher.api.locate import find_run_root
    from launcher.rundir.finding import scan

    runs = scan(find_run_root(getattr(parsed_args, "run_root", None)))
    ids = [run_id for _, run_id in runs if run_id.startswith(prefix)]
    return ids[:_MOST_RUNS] + sorted({name for name, _ in runs if name.startswith(prefix)})


def _images(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    from launcher.api.locate import find_image_store

    chosen = getattr(parsed_args, "in_job_on", None) or getattr(parsed_args, "cluster", None)
    return sorted(find_image_store(chosen).names())


def _recipes(prefix: str, **_: Any) -> list[str]:
    if prefix.startswith("bridge:"):
        from launcher.discovery.recipe_index import load_index

        return [f"bridge:{name}" for name, one in load_index().recipes.items() if not one.elsewhere]
    from argcomplete.completers import FilesCompleter

    from launcher.discovery.recipe import shipped_recipes

    files: list[str] = FilesCompleter(("py", "toml"))(prefix)
    return [*files, *shipped_recipes(), "bridge:"]


def _keys(prefix: str, parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
    from launcher.planning.overrides import load_schema

    recipe = getattr(parsed_args, "recipe", None) or ""
    # Up to the next dot: two thousand keys at once are too many.
    depth = prefix.count(".") + 1
    keys = {key for key, spec in load_schema().keys.items() if key.startswith(prefix) and spec != "fixed"}
    short = {".".join(key.split(".")[:depth]) for key in keys}
    sections = {key for key in short if any(each.startswith(f"{key}.") for each in keys)}
    offered = {f"{key}." if key in sections else f"{key}=" for key in short}
    return sorted(offered | {f"{name}=" for name in _arguments(recipe) if name.startswith(prefix)})


def _arguments(recipe: str) -> set[str]:
    """Return the arguments of every recipe; for one of Bridge's also its parameters and keywords of older releases."""
    from launcher.contract.recipe_arguments import EVERY, KEYWORDS

    if not recipe.startswith("bridge:"):
        return set(EVERY)
    from launcher.discovery.recipe_index import load_index

    found = load_index().recipes.get(recipe.removeprefix("bridge:"))
    return {*EVERY, *KEYWORDS, *(found.parameters if found else ())}
