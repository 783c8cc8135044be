"""`KEY=VALUE` of the command line: which are arguments of `configure`, which are overrides."""

from collections.abc import Iterable, Sequence

from launcher.errors import OverrideError
from launcher.facts.recipe import Recipe, RecipeFile


def split(settings: Sequence[str], recipe: Recipe) -> tuple[dict[str, str], tuple[str, ...]]:
    """Arguments (raw strings by name) and overrides (in order).

    A key without a dot that is a parameter of `configure` is an argument. Raises OverrideError.
    """
    parameters = recipe.parameters if isinstance(recipe, RecipeFile) else ()
    arguments: dict[str, str] = {}
    overrides: list[str] = []
    for number, text in enumerate(settings, start=1):
        key, given, value = text.partition("=")
        if "\0" in text:
            raise OverrideError("a NUL byte cannot be given", where=f"setting {number}")
        if not given and not text.startswith("~"):
            raise OverrideError(
                f"{text!r} is no KEY=VALUE",
                where=f"setting {number}",
                hint="Overrides look like train.train_iters=1000; options begin with --, see `launcher run --help`.",
            )
        if key in parameters:
            arguments[key] = value
        else:
            overrides.append(text)
    missing = [name for name in recipe.required if name not in arguments] if isinstance(recipe, RecipeFile) else []
    if missing and isinstance(recipe, RecipeFile):
        raise OverrideError(
            f"{recipe.function}() of {recipe.path.name} needs {', '.join(missing)}", hint=f"Add {missing[0]}=VALUE."
        )
    return arguments, tuple(overrides)


def again(earlier: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """The settings of a resumed run: the earlier ones, except where a new one has the same key."""
    new = tuple(new)
    keys = {_key(text) for text in new}
    return (*(text for text in earlier if _key(text) not in keys), *new)


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
