"""Arguments that every recipe accepts: checks before anything runs, and the values that they set."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher._util.errors import OverrideError
from launcher.contract import data_request, key_aliases
from launcher.contract.recipe_arguments import EVERY, FIELDS, KEYWORDS
from launcher.contract.recipe_arguments import check as check_value
from launcher.contract.values import Override, Refused
from launcher.discovery.recipe import BridgeRecipe, Recipe
from launcher.discovery.recipe_index import IndexMatch
from launcher.discovery.training_files import INPUT_ARGUMENTS
from launcher.planning.overrides import Schema, known_values
from launcher.planning.overrides import check as check_overrides


def check(
    arguments: Mapping[str, str], recipe: Recipe, index_match: IndexMatch | None, schema: Schema | None
) -> dict[str, Any]:
    """Check the arguments, and return the values that keywords of older releases set, by key of the configuration.

    Raises OverrideError for a wrong value.
    """
    named = {"hf_path"} & set(arguments) if isinstance(recipe, BridgeRecipe) else set[str]()
    for name in sorted(_common(arguments, recipe) | named):
        try:
            check_value(name, arguments[name])
        except Refused as error:
            raise OverrideError(error.message, where=f"{name}={arguments[name]}", hint=error.hint) from None
    if "peft" in _common(arguments, recipe):
        _check_scheme(arguments, recipe, index_match)
    values = dict(_DEEPEP) if _is_true(arguments, "enable_deepep", recipe) else dict[str, Any]()
    for name, field in _fields(arguments, recipe):
        if schema is not None and field not in schema.keys:
            field = key_aliases.OLDER.get(field, field)
        try:
            checked = check_overrides([f"{field}={arguments[name]}"], schema)
        except OverrideError as error:
            text = f"{name}={arguments[name]} sets {field}: {error.message}"
            raise OverrideError(text, where=f"{name}={arguments[name]}", hint=error.hint) from None
        values |= known_values(checked)
    return values


def files(arguments: Mapping[str, str], recipe: Recipe) -> dict[str, Any]:
    """Return the files and directories that arguments name, for discovery.training_files.

    Of a recipe's own parameters those count whose names say that the training reads them; what they hold counts as
    data only where it looks like a path.
    """
    given = _common(arguments, recipe)
    own = {*recipe.parameters, *(KEYWORDS if isinstance(recipe, BridgeRecipe) else ())}
    found: dict[str, Any] = {
        name: _paths_in(text) if "data" in name else text
        for name, text in sorted(arguments.items())
        if name in own and name in INPUT_ARGUMENTS
    }
    if "data" in given:
        request = data_request.parse(arguments["data"])
        found["data"] = list(request.paths) if request.kind in ("paths", "jsonl") else []
    names = {"tokenizer"} & given
    names |= {"hf_path"} & set(arguments) if isinstance(recipe, BridgeRecipe) else set()
    return {**found, **{name: arguments[name] for name in sorted(names)}}


def _paths_in(text: str) -> list[str]:
    return [one for one in re.split(r"[,\s]+", text) if one.startswith(("/", "./", "../", "~/"))]


def sizes(values: Mapping[str, Any], overrides: tuple[Override, ...]) -> dict[str, Any]:
    """Return the values that no override replaces."""
    replaced = {override.key for override in overrides}
    return {key: value for key, value in values.items() if not {key, key.partition(".")[0]} & replaced}


def _common(arguments: Mapping[str, str], recipe: Recipe) -> set[str]:
    return {name for name in arguments if name in EVERY and name not in recipe.parameters}


def _fields(arguments: Mapping[str, str], recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield each keyword with each field that it sets; `name=null` sets nothing: it meant "as in the recipe"."""
    for name, text in arguments.items():
        if isinstance(recipe, BridgeRecipe) and name not in recipe.parameters and text != "null":
            yield from ((name, field) for field in FIELDS.get(name, ()))


_DEEPEP = {"model.moe_token_dispatcher_type": "flex", "model.moe_flex_dispatcher_backend": "deepep"}
"""What `enable_deepep=true` sets (job/config/legacy_kwargs.py)."""


def _is_true(arguments: Mapping[str, str], name: str, recipe: Recipe) -> bool:
    """Return whether a keyword of Bridge's older functions is given as true."""
    own = name in recipe.parameters or not isinstance(recipe, BridgeRecipe)
    return not own and arguments.get(name, "").lower() == "true"


def _check_scheme(arguments: Mapping[str, str], recipe: Recipe, index_match: IndexMatch | None) -> None:
    """Raise OverrideError if `peft=` is set for a recipe that pretrains."""
    scheme = arguments["peft"]
    if arguments.get("peft_scheme", scheme) != scheme:
        text = f"peft={scheme} and peft_scheme={arguments['peft_scheme']} contradict each other"
        raise OverrideError(text, hint="Leave one of the two out.")
    if not isinstance(recipe, BridgeRecipe) or recipe.task != "pretrain" or scheme == "none":
        return
    others = index_match.fine_tuning[:3] if index_match else ()
    hint = f"Fine-tune with {' or '.join(f'bridge:{one}' for one in others)}." if others else None
    raise OverrideError(
        f"peft={scheme}: {recipe.name} pretrains, and adapters need the weights of a trained model",
        where=f"bridge:{recipe.name}",
        hint=hint or "Bridge has no recipe that fine-tunes this model: write one in a file.",
    )
