"""The arguments of `configure()`: raw strings, converted by the function's own signature."""

import contextlib
import enum
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...contract import recipe_arguments, values
from ..errors import UserError
from . import annotations

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NULL = ("null", "none")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def divide(
    function: Callable[..., Any], given: Mapping[str, str], *, bridge: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the arguments for the function itself, and those that every recipe takes although the function does not.

    `bridge` says that the function is one of Bridge's own.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {one.name for one in parameters if one.kind in _NAMED}
    rest = next((one for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD), None)
    known |= set(_typed_rest(rest, getattr(inspect.unwrap(function), "__globals__", {})) or ())
    common = {
        name: text
        for name, text in given.items()
        if name not in known and recipe_arguments.is_argument(name, text, bridge=bridge)
    }
    return {name: text for name, text in given.items() if name not in common}, common


def bind(function: Callable[..., Any], title: str, given: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the keyword arguments of `function`, which its user knows as `title`, that the raw strings mean.

    Raises UserError for an unknown name (with the known ones, the nearest first), a required one that is missing, and a
    value that its annotation does not admit. Without annotation the default's type counts: bool, int, float; else the
    raw string, with `null` for None where None is the default.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {one.name: one for one in parameters if one.kind in _NAMED}
    rest = next((one for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD), None)
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    more = _typed_rest(rest, scope)
    for name in given:
        if name not in known and name not in (more or {}) and (rest is None or more):
            raise UserError(_unknown(title, name, [*known, *(more or {})]), where=where)
    missing = [name for name, one in known.items() if one.default is inspect.Parameter.empty and name not in given]
    if missing:
        raise UserError(
            f"{title}() needs {' and '.join(repr(name) for name in missing)}, which is not given",
            where=where,
            hint=f"add {' '.join(f'{name}=...' for name in missing)}",
        )
    converted = {}
    for name, text in given.items():
        parameter = known.get(name, rest)
        annotation = (more or {}).get(name, parameter.annotation if parameter is not None else Any)
        default = parameter.default if parameter is not None else inspect.Parameter.empty
        try:
            converted[name] = _convert(text, _annotation(annotation, default, scope))
        except ValueError as error:
            raise UserError(f"argument {name}={text}: {error}", where=where) from None
    return converted


def _typed_rest(rest: "inspect.Parameter | None", scope: dict[str, Any]) -> "dict[str, Any] | None":
    """Return the names that `**kwargs: Unpack[SomeTypedDict]` admits, as Bridge's recipes before 0.3.1 declare them."""
    annotation = annotations.evaluate(rest.annotation, scope) if rest is not None else None
    inner = typing.get_args(annotation)
    if getattr(typing.get_origin(annotation), "__name__", "") != "Unpack" and "Unpack" not in repr(annotation):
        return None
    return annotations.hints(inner[0]) if inner else None


def _unknown(title: str, name: str, known: list[str]) -> str:
    if not known:
        return f"{title}() takes no arguments, and {name!r} was given"
    near = values.nearest(name, known)
    ordered = [*near, *(one for one in known if one not in near)]
    return f"{title}() has no argument {name!r}; it has {', '.join(ordered)}"


def _annotation(annotation: Any, default: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        if type(default) in (bool, int, float):
            return type(default)
        return str | None if default is None else str
    evaluated = annotations.evaluate(annotation, scope, otherwise=inspect.Parameter.empty)
    if evaluated is inspect.Parameter.empty:
        raise ValueError(f"its annotation {annotation!r} cannot be evaluated in the recipe")
    return typing.Optional[evaluated] if default is None and evaluated is not Any else evaluated


def _convert(text: str, annotation: Any) -> Any:
    """One raw string as its annotation means it; raises ValueError with what would be right."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _convert(text, arguments[0])
    if origin in annotations.UNIONS:
        return _convert_union(text, arguments)
    if annotation in (str, Any):
        return text
    if annotation is Path:
        return Path(text)
    if origin is not typing.Literal and annotation not in (type(None), None, bool, int, float):
        return _convert_structure(text, annotation)
    for meant in _meanings(text, annotation, arguments):
        return meant
    raise ValueError(f"it takes {values.describe(annotations.spec(annotation))}, not {text!r}")


def _meanings(text: str, annotation: Any, literals: tuple[Any, ...]) -> Iterator[Any]:
    """Yield what the text means as a literal, null, a truth value or a number: nothing or one value."""
    if literals:
        yield from (one for one in literals if text == str(one) or (one is None and text.lower() in _NULL))
    elif annotation in (type(None), None):
        yield from (None for null in _NULL if text.lower() == null)
    elif annotation is bool:
        yield from (word in _TRUE for word in (*_TRUE, *_FALSE) if text.lower() == word)
    else:
        with contextlib.suppress(ValueError):  # the caller says what the argument takes
            yield annotation(text)


def _convert_union(text: str, alternatives: tuple[Any, ...]) -> Any:
    """Return the first alternative that admits the text; null before all others, and plain text last."""
    order = (type(None), bool, int, float)
    ranked = sorted(alternatives, key=lambda one: (one in (str, Any, Path), order.index(one) if one in order else 4))
    for one in ranked:
        if one is bool and text in ("0", "1") and int in alternatives:
            continue
        try:
            return _convert(text, one)
        except ValueError:
            continue  # the next alternative may admit it
    described = values.describe(annotations.union([annotations.spec(one) for one in alternatives]))
    raise ValueError(f"it takes {described}, not {text!r}")


def _convert_structure(text: str, annotation: Any) -> Any:
    """Enums by name; lists, tuples and mappings in Hydra's grammar: [1,2], [[a,b],[c]], {a:1}."""
    spec = annotations.spec(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        named = next((one for one in annotation if text in (one.name, str(one.value))), None)
        if named is not None:
            return named
    elif spec in ("fixed", "section"):
        raise ValueError(f"a {getattr(annotation, '__name__', annotation)} cannot be given as text")
    elif spec == "dtype" and values.fits(text, spec):
        return annotations.coerce(text, annotation)
    elif isinstance(spec, dict):
        try:
            value = values.parse(f"x={text}").value
        except values.Refused as error:
            raise ValueError(error.message.replace(repr(f"x={text}"), repr(text))) from None
        if values.fits(value, spec):
            return annotations.coerce(value, annotation)
    raise ValueError(f"it takes {values.describe(spec)}, not {text!r}")
