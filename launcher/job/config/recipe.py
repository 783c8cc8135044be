"""A recipe: a Python file with `configure(...)`, or the name of a Megatron Bridge function."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ...contract import recipe_arguments, values
from ..errors import UserError, first_line
from ..imports import CodeLoader
from ..model import hub
from . import arguments as _arguments
from . import common_arguments, versions


def load(recipe: Mapping[str, Any], arguments: Mapping[str, str], base: Path) -> Any:
    """Return the ConfigContainer that a recipe makes.

    `recipe` is {"path", "function"}, the path relative to `base`, or {"bridge": NAME}; `arguments` are raw strings by
    name. Functions of Bridge find the architectures that ship (hub.py) and take the keywords of older releases
    (versions.py). Raises UserError with one sentence for each possible mistake; `where` is the position in the user's
    own file.
    """
    with hub.provide_architectures(), versions.old_keywords():
        return _load(recipe, arguments, base)


def _load(recipe: Mapping[str, Any], arguments: Mapping[str, str], base: Path) -> Any:
    if "bridge" in recipe:
        name = recipe["bridge"]
        function, where, home = _bridge_function(name), f"bridge:{name}", None
    else:
        path = (base / recipe["path"]).absolute()
        name = recipe.get("function", "configure")
        function, home = _function(import_file(path), name, path), path.parent
        where = (
            f"{path}:{inspect.unwrap(function).__code__.co_firstlineno}" if inspect.isfunction(function) else str(path)
        )
    own, common = _arguments.divide(function, arguments, bridge="bridge" in recipe)
    keywords = _arguments.bind(function, name, own, where)
    config = _call(common_arguments.prepared(function, common), name, keywords, where, home)
    _require_config(config, name, where)
    common_arguments.apply(config, common, recipe, where)
    return config


def import_file(path: Path) -> ModuleType:
    """Import a recipe's file under its own name, with its directory on sys.path.

    The module is in sys.modules before it runs, and importable by its name in a process that multiprocessing starts: so
    classes of a recipe can be pickled, and a checkpoint's run_config.yaml can name them. Raises UserError.
    """
    if not path.is_file():
        kind = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"the recipe {path} {kind}")
    name = path.stem.replace(".", "_")  # a dot would make it a submodule
    _refuse_taken(name, path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    loader = CodeLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise  # a signal, not an error of the recipe
        _raise(error, "the recipe cannot be imported", str(path), path.parent)
    return module


def _refuse_taken(name: str, path: Path) -> None:
    """Refuse a recipe named like a module: json.py would hide the real json, as its directory is on sys.path."""
    known = sys.modules.get(name)
    try:
        spec = known.__spec__ if known is not None else importlib.util.find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    origin = getattr(spec, "origin", None)
    if (known is not None or spec is not None) and (origin is None or Path(origin).resolve() != path.resolve()):
        raise UserError(
            f"the recipe {path.name} has the name of an existing module ({origin or name})",
            where=str(path),
            hint="rename the recipe's file",
        )


def _function(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    own = [
        one for one, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    state = "has no function" if function is None else f"has a {type(function).__name__}, not a function, called"
    near = values.nearest(name, own) or own[:3]
    raise UserError(
        f"the recipe {state} {name!r}",
        where=str(path),
        hint=f"it has {', '.join(near)}: name it as {path.name}:{near[0]}"
        if near
        else f"write `def {name}(): ...` in it",
    )


def _bridge_function(name: str) -> Callable[..., Any]:
    import megatron.bridge.recipes as recipes

    for module in _bridge_modules(recipes):
        function = getattr(module, name, None)
        if inspect.isfunction(function) and not name.startswith("_"):
            return function
    known = {one for module in _bridge_modules(recipes) for one in vars(module) if one.endswith("_config")}
    now = recipe_arguments.successors(name, known)
    near = now or values.nearest(name, {one for one in known if not one.startswith("_")}, count=5)
    raise UserError(
        f"Megatron Bridge has no recipe {name!r}",
        where=f"bridge:{name}",
        hint=f"did you mean {', '.join(near)}?" if near else "`launcher recipes` lists all recipes",
    )


def _bridge_modules(recipes: ModuleType) -> Iterator[ModuleType]:
    """Yield the recipes' module, then those of the performance recipes: subpackages since 0.6, absent before."""
    yield recipes
    try:
        perf = importlib.import_module("megatron.bridge.perf_recipes")
    except ImportError:
        return  # a release without them
    for found in pkgutil.iter_modules(perf.__path__, f"{perf.__name__}."):
        if found.ispkg:
            yield importlib.import_module(found.name)


def _call(function: Callable[..., Any], name: str, keywords: Mapping[str, Any], where: str, home: "Path | None") -> Any:
    try:
        return function(**keywords)
    except (Exception, SystemExit) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        _raise(error, f"{name}({shown}) failed", where, home)


def _require_config(config: Any, name: str, where: str) -> None:
    from megatron.bridge.training.config import ConfigContainer

    if isinstance(config, ConfigContainer):
        return
    if config is None:
        raise UserError(f"{name}() returned None", where=where, hint="end it with `return cfg`, a ConfigContainer")
    kind = type(config).__name__
    raise UserError(
        f"{name}() returned a {kind}, but a recipe must return Megatron Bridge's ConfigContainer", where=where
    )


def _raise(error: BaseException, what: str, where: str, home: "Path | None") -> Any:
    """Raise UserError for what the user's code raised, at the innermost line of the user's own files."""
    if isinstance(error, UserError):
        raise error
    if isinstance(error, SyntaxError) and error.filename and (home is None or _is_below(error.filename, home)):
        text = f"the recipe is not valid Python: {error.msg}"
        raise UserError(text, where=f"{error.filename}:{error.lineno or 1}") from error
    frames = [one for one in traceback.extract_tb(error.__traceback__) if home and _is_below(one.filename, home)]
    position = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else where
    message = first_line(error)
    kind = type(error).__name__
    raise UserError(f"{what}: {kind}{f': {message}' if message else ''}", where=position) from error


def _is_below(filename: str, home: Path) -> bool:
    return Path(filename).is_relative_to(home) and "site-packages" not in Path(filename).relative_to(home).parts
