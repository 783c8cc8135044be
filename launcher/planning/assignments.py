"""Assignments, the `KEY=VALUE` of the command line: which are arguments of `configure`, and which are overrides."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher._util.errors import OverrideError
from launcher.config.request import assignment_key
from launcher.contract import data_request
from launcher.contract.overrides import last_of_each_key, replaced
from launcher.contract.recipe_arguments import is_argument
from launcher.discovery.recipe import BridgeRecipe, Recipe, RecipeFile
from launcher.discovery.training_files import INPUT_ARGUMENTS


def split_arguments_and_overrides(
    assignments: Sequence[str], recipe: Recipe, *, common: bool = True
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the arguments of the recipe (raw strings by name) and the overrides, in their order.

    A key without a dot that is a parameter of the recipe's function is an argument, and so are those that every recipe
    takes (contract/recipe_arguments.py), unless `common` is False: a program that is not Bridge has keys of its own.
    Of several values of one key the last counts (contract/overrides.py). Raises OverrideError.
    """
    arguments: dict[str, str] = {}
    overrides: list[str] = []
    for number, text in enumerate(last_of_each_key(assignments), start=1):
        key, given, value = text.partition("=")
        if "\0" in text:
            raise OverrideError("a NUL byte cannot be given", where=f"assignment {number}")
        if not given and not text.startswith("~"):
            raise OverrideError(
                f"{text!r} is not KEY=VALUE",
                where=f"assignment {number}",
                hint="Overrides look like train.train_iters=1000; options begin with --, see `launcher run --help`.",
            )
        own = key in recipe.parameters
        if own or (common and is_argument(key, value, bridge=isinstance(recipe, BridgeRecipe))):
            arguments[key] = value
        else:
            overrides.append(text)
    missing = [name for name in recipe.required if name not in arguments] if isinstance(recipe, RecipeFile) else []
    if missing and isinstance(recipe, RecipeFile):
        raise OverrideError(
            f"{recipe.function}() of {recipe.path.name} needs {', '.join(missing)}", hint=f"Add {missing[0]}=VALUE."
        )
    return arguments, tuple(overrides)


_CHECKPOINTS = ("checkpoint.load", "checkpoint.pretrained_checkpoint")


def make_paths_absolute(assignments: Sequence[str], recipe: Recipe, directory: Path) -> tuple[str, ...]:
    """Return the assignments with absolute paths for the files and directories that the run reads.

    Those are what common arguments name, a recipe's own parameters of such names (INPUT_ARGUMENTS), and the
    checkpoint to begin from.

    A job starts in another directory, and so does its resumption. A path that does not exist stays as it was: the name
    of a model on the hub looks like a path, too.
    """
    return tuple(_make_path_absolute(text, recipe, directory) for text in assignments)


def _make_path_absolute(text: str, recipe: Recipe, directory: Path) -> str:
    key, _, value = text.partition("=")
    own = key in recipe.parameters
    # What a recipe's own `data=train` means is the recipe's business; a path is a path.
    open_text = own and "data" in key and not value.startswith(("./", "../", "~/"))
    if not value or value.startswith("{") or open_text or (own and key not in INPUT_ARGUMENTS):
        return text
    if key == "data" or (own and "data" in key):
        return f"{key}={data_request.anchored(value, directory)}"
    path = data_request.absolute(value, directory)
    common = ("tokenizer", "hf_path") if isinstance(recipe, BridgeRecipe) else ("tokenizer",)
    named = own or key in common or key.lstrip("+") in _CHECKPOINTS
    return f"{key}={path}" if named and path.exists() else text


def replaced_warnings(assignments: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for each assignment that a later one of the same key replaces."""
    return tuple(f"{text} has no effect: {later} comes after it" for text, later in replaced(assignments))


def merge_for_resume(earlier: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Return the assignments of a resumed run: the earlier ones, except where a new one has the same key."""
    new = tuple(new)
    keys = {assignment_key(text) for text in new}
    return (*(text for text in earlier if assignment_key(text) not in keys), *new)
