"""What the index of Megatron Bridge's recipes adds to a plan: weaker than the user's overrides, and than a check."""

from collections.abc import Iterable, Mapping
from typing import Any

from launcher.discovery.recipe_index import IndexMatch
from launcher.planning import layout
from launcher.planning.overrides import Override, known_values


def values_of(index_match: IndexMatch | None, overrides: Iterable[Override]) -> Mapping[str, Any]:
    """The recipe's values by key, without those that an override replaces, be it by what only the job knows."""
    if index_match is None or index_match.recipe is None:
        return {}
    replaced = {override.key for override in overrides}
    values = index_match.recipe.values
    return {key: value for key, value in values.items() if not {key, key.partition(".")[0]} & replaced}


def env_of(index_match: IndexMatch | None, overrides: Iterable[Override]) -> Mapping[str, str] | None:
    """The recipe's env_vars with what overrides change in them; None where they are not known."""
    overrides = tuple(overrides)
    if index_match is None or index_match.recipe is None or index_match.recipe.env is None:
        return None
    keys = {override.key for override in overrides}
    if "env_vars" in keys:
        return None
    found = dict(index_match.recipe.env)
    known = known_values(overrides)
    for key in sorted(key for key in keys if key.startswith("env_vars.")):
        name = key.removeprefix("env_vars.")
        found.pop(name, None)
        if known.get(key) is not None:
            found[name] = str(known[key])
    return found


def unchecked(index_match: IndexMatch, known: Mapping[str, Any]) -> tuple[str, ...]:
    """What only running the recipe can tell, and what was believed instead; `known` holds all values by key."""
    missing = [key for key in layout.PARALLEL_KEYS.values() if key not in known]
    source = f"from the index of Megatron Bridge {index_match.version}"
    if index_match.recipe is not None and index_match.recipe.env is not None:
        believed = [f"the recipe's parallel sizes, batch sizes and env_vars: {source}"]
    else:
        believed = ["the recipe's env_vars: the recipe decides"]
    return (*believed, *(f"{key}: the recipe decides" for key in missing), "the recipe's own values")


def warnings(index_match: IndexMatch | None) -> tuple[str, ...]:
    """What the index has against the recipe."""
    if index_match is None:
        return ()
    failed = index_match.recipe.not_run if index_match.recipe else None
    if index_match.recipe is None or failed is None:
        return index_match.warnings
    name = index_match.recipe.name
    text = f"when the index of Megatron Bridge {index_match.version} was made, {name}() failed: {failed}"
    return (*index_match.warnings, text)


def with_source(hint: str | None, index_match: IndexMatch | None) -> str | None:
    """The hint of an error about sizes, with where those come from that the user did not give."""
    if index_match is None or index_match.recipe is None:
        return hint
    source = (
        f"The sizes of {index_match.recipe.name} are known from the index of Megatron Bridge {index_match.version}."
    )
    return f"{hint} {source}" if hint else source
