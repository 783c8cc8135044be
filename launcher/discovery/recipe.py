"""Recipes, read without running them: whether the function exists, and which arguments it takes."""

import ast
from pathlib import Path

from launcher._util.errors import RecipeError
from launcher._util.resources import resource
from launcher._util.user_paths import exists, user_path
from launcher.contract.files import read_bytes
from launcher.contract.frozen import dataclass
from launcher.contract.values import nearest

SOURCE_BYTES = 1 << 20
"""The largest recipe that is read: the largest of Megatron Bridge's has 30 KiB."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe in a Python file."""

    path: Path
    """Absolute path of the file."""
    function: str
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    """Parameters without a default."""


@dataclass(frozen=True)
class BridgeRecipe:
    """A recipe of Megatron Bridge, by the name of its function; parameters and task come from the recipe index."""

    name: str
    parameters: tuple[str, ...] = ()
    task: str | None = None
    """pretrain, sft or peft."""


@dataclass(frozen=True)
class MegatronScript:
    """A training by Megatron-LM's command line."""

    name: str
    """`gpt` for the launcher's own script, else the script's path in the checkout."""
    words: tuple[str, ...]
    """Megatron-LM's arguments."""
    source: Path | None = None
    """The checkout of Megatron-LM; None where the installed packages are used."""
    commit: str | None = None
    """The checkout's commit; None where it is not a git repository."""
    parameters: tuple[str, ...] = ()

    @property
    def mounts(self) -> tuple[str, ...]:
        """Return the directories that a container needs for it."""
        return (str(self.source),) if self.source else ()


Recipe = RecipeFile | BridgeRecipe | MegatronScript
MLM = "mlm:"
"""How the name of a Megatron-LM script begins."""


def read_recipe(text: str, directory: Path) -> RecipeFile | BridgeRecipe:
    """Read the recipe `path.py[:function]`, `bridge:NAME`, or `NAME[:function]` of one that ships with the launcher.

    A path is relative to `directory`.

    Raises RecipeError if the file or function does not exist, or the file is not valid Python.
    """
    if text.startswith("bridge:"):
        name = text.removeprefix("bridge:")
        if not name.isidentifier():
            raise RecipeError(
                f"{name!r} is not the name of a Bridge recipe; a valid one is llama32_1b_pretrain_config", where=text
            )
        return BridgeRecipe(name)
    head, colon, function = text.rpartition(":")
    file, function = (head, function) if colon and head.endswith(".py") else (text, "configure")
    if not file.endswith(".py"):
        name, _, function = text.partition(":")
        if not name.isidentifier():
            raise RecipeError(
                f"{text!r} is not a recipe",
                hint="A recipe is a Python file (path.py or path.py:function), the name of one that ships with the "
                "launcher, a Bridge recipe (bridge:NAME), or a script of Megatron-LM (mlm:gpt, mlm:SCRIPT.py).",
            )
        file, function = str(_shipped(name, directory)), function or "configure"
    path = user_path(file, directory, error=RecipeError).resolve()
    if not exists(path):
        raise RecipeError(f"there is no recipe {file!r}", where=str(directory), hint=_others(path))
    parameters, required = _signature(path, function)
    return RecipeFile(path, function, parameters, required)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipe files that ship with the launcher, by their names without `.py`."""
    return {path.stem: path for path in sorted(resource("recipes").glob("*.py"))}


def _shipped(name: str, directory: Path) -> Path:
    """Return the shipped recipe of this name. Raises RecipeError with the nearest names."""
    known = shipped_recipes()
    if name in known:
        return known[name]
    if exists(directory / f"{name}.py"):
        raise RecipeError(f"{name!r} is not a recipe that ships with the launcher", hint=f"The file is {name}.py.")
    if name.endswith("_config"):  # as all of Megatron Bridge's do
        raise RecipeError(
            f"{name!r} is not a recipe that ships with the launcher", hint=f"Megatron Bridge's is bridge:{name}."
        )
    near = nearest(name, known)
    guess = f"Did you mean: {', '.join(near)}? " if near else ""
    raise RecipeError(
        f"{name!r} is not a recipe that ships with the launcher",
        hint=f"{guess}`launcher recipes` lists them and Megatron Bridge's (bridge:NAME); a file is {name}.py.",
    )


def _signature(path: Path, function: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        tree = ast.parse(read_bytes(path, limit=SOURCE_BYTES), filename=str(path))
    except SyntaxError as error:
        raise RecipeError(f"the recipe is not valid Python: {error.msg}", where=f"{path}:{error.lineno}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError(f"the recipe cannot be read: {reason}", where=str(path)) from None
    except (RecursionError, MemoryError):
        raise RecipeError("the recipe cannot be read: its expressions are nested too deeply", where=str(path)) from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    node = functions.get(function)
    if node is None:
        if function in _assigned_names(tree):
            return (), ()  # imported, or the value of an expression: its arguments are known only in the job
        raise RecipeError(
            f"the recipe has no function {function!r}",
            where=str(path),
            hint=f"Its functions: {', '.join(functions) or 'none'}. Name one as {path.name}:FUNCTION.",
        )
    positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    named = [argument.arg for argument in node.args.kwonlyargs]
    needed = positional[: len(positional) - len(node.args.defaults)]
    needed += [name for name, default in zip(named, node.args.kw_defaults, strict=True) if default is None]
    return (*positional, *named), tuple(needed)


def _assigned_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _others(path: Path) -> str:
    if path.stem in shipped_recipes():
        return f"One of this name ships with the launcher: {path.stem}, without .py."
    beside = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    if beside:
        return f"{path.parent} has: {', '.join(beside)}."
    return "Check the path; it is relative to the current directory."
