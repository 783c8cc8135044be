"""Typed, frozen values from files and command lines: each field is checked, and an unknown key is refused.

A model is a class with annotated fields, each with its documentation below it. A kind is one of `str`, `int`, `float`,
`bool`, `Path`, `Any`, `Literal`, `X | Y`, `tuple[X, ...]`, `dict[X, Y]` and another model; `Annotated[X, check, ...]`
adds functions that return the value or raise ValueError. Nothing is converted but lists to tuples, integers to floats,
texts to paths, and what `Before` converts.

Definitions compile nothing, so that commands start quickly.
"""

import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from launcher.contract.frozen import dataclass

Check = Callable[[Any], Any]
Key = tuple[str, ...]
"""The parts of a key: a field, then keys or indices below it."""

_MISSING: Any = object()
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "path"}


@dataclass(frozen=True)
class WrongValue:
    """What is wrong with one value."""

    key: Key
    text: str
    known: tuple[str, ...] = ()
    """Of an unknown key: those that its table has."""


class ModelError(ValueError):
    """Values that do not fit a model, with every problem."""

    def __init__(self, problems: list[WrongValue]) -> None:
        """Take the problems."""
        super().__init__("; ".join(f"{'.'.join(each.key)}: {each.text}" for each in problems))
        self.problems = problems


@dataclass(frozen=True)
class Before:
    """Converts what was given before it is checked."""

    convert: Check


@dataclass(frozen=True)
class Field:
    """One field of a model."""

    kind: Any
    default: Any = _MISSING

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.default is _MISSING

    def new_default(self) -> Any:
        """Return the default; a dictionary is a new one."""
        return dict(self.default) if isinstance(self.default, dict) else self.default


class _Fields:
    """The fields of a model by name, found at their first use."""

    def __get__(self, _instance: object, owner: type["Model"]) -> Mapping[str, Field]:
        found: Mapping[str, Field] | None = owner.__dict__.get("_fields")
        if found is None:
            kinds = get_type_hints(owner, include_extras=True)
            found = {
                name: Field(kind, getattr(owner, name, _MISSING))
                for name, kind in kinds.items()
                if get_origin(kind) is not ClassVar
            }
            type.__setattr__(owner, "_fields", found)
        return found


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Model:
    """A frozen value with checked fields."""

    model_fields: ClassVar[_Fields] = _Fields()
    _given: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **values: Any) -> None:
        """Check the values. Raises ModelError that names every wrong one."""
        problems: list[WrongValue] = []
        held = _fill(type(self), values, (), problems)
        if problems:
            raise ModelError(problems)
        self.__dict__.update(held, _given=frozenset(values))

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> Self:
        """Return the model with these values. Raises ModelError."""
        return cls(**values)

    @property
    def model_fields_set(self) -> frozenset[str]:
        """Return the names of the fields that were given."""
        return self._given

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return the model with other values, which are not checked."""
        return _made(type(self), {**self.__dict__, **update}, {*self._given, *update})

    def model_dump(
        self,
        *,
        mode: Literal["python", "json"] = "python",
        exclude_defaults: bool = False,
        exclude: Set[str] = frozenset(),
    ) -> dict[str, Any]:
        """Return the values by name, those of inner models, too; with the mode `json` as JSON has them."""
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = self.__dict__[name]
            if name not in exclude and not (exclude_defaults and not field.required and value == field.default):
                found[name] = _dumped(value, mode == "json")
        return found

    def __eq__(self, other: object) -> bool:
        """Compare the values of all fields."""
        if type(other) is not type(self):
            return NotImplemented
        return all(self.__dict__[name] == other.__dict__[name] for name in type(self).model_fields)

    __hash__ = None  # type: ignore[assignment] # dictionaries among the values have no hash

    def __repr__(self) -> str:
        """Return the name with all values."""
        return f"{type(self).__name__}({', '.join(f'{n}={self.__dict__[n]!r}' for n in type(self).model_fields)})"

    def __setattr__(self, name: str, _value: object) -> None:
        """Refuse every change."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")


def empty_table() -> Any:
    """Return the default of a dictionary."""
    return {}


def above(limit: float) -> Check:
    """Return the check for a number above `limit`."""
    return _check(lambda value: value > limit, f"Input should be greater than {limit}")


def at_least(limit: float) -> Check:
    """Return the check for a number of at least `limit`."""
    return _check(lambda value: value >= limit, f"Input should be greater than or equal to {limit}")


def at_most(limit: float) -> Check:
    """Return the check for a number of at most `limit`."""
    return _check(lambda value: value <= limit, f"Input should be less than or equal to {limit}")


def matches(pattern: str) -> Check:
    """Return the check for a text that matches a regular expression as a whole."""
    return _check(lambda value: re.fullmatch(pattern, value), f"String should match pattern '{pattern}'")


def finite(value: float) -> float:
    """Return a finite number. Raises ValueError for infinity."""
    if not math.isfinite(value):
        raise ValueError("Input should be a finite number")
    return value


def not_empty(text: str) -> str:
    """Return a text that is not empty. Raises ValueError for an empty one."""
    if not text:
        raise ValueError("String should have at least 1 character")
    return text


def _check(holds: Callable[[Any], object], words: str) -> Check:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(words)
        return value

    return check


def _dumped(value: Any, as_json: bool) -> Any:
    if isinstance(value, Model):
        return value.model_dump(mode="json" if as_json else "python")
    if isinstance(value, tuple):
        items = [_dumped(each, as_json) for each in value]
        return items if as_json else tuple(items)
    if isinstance(value, dict):
        return {name: _dumped(each, as_json) for name, each in value.items()}
    return str(value) if as_json and isinstance(value, Path) else value


def _fill(model: type[Model], values: Mapping[str, Any], key: Key, problems: list[WrongValue]) -> dict[str, Any]:
    """Return the value of every field; what is wrong is added to `problems`."""
    fields, held = model.model_fields, {}
    for name, field in fields.items():
        if name in values:
            held[name] = _checked(field.kind, values[name], (*key, name), problems)
        elif field.required:
            problems.append(WrongValue((*key, name), "Field required"))
        else:
            held[name] = field.new_default()
    unknown = [name for name in values if name not in fields]
    problems.extend(WrongValue((*key, name), "unknown key", tuple(fields)) for name in unknown)
    return held


def _checked(kind: Any, value: Any, key: Key, problems: list[WrongValue]) -> Any:
    """Return the value as its kind has it; what is wrong is added to `problems`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:], value, key, problems)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, key, problems)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(inner[0], each, (*key, str(at)), problems) for at, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {
            _checked(inner[0], name, (*key, str(name)), problems): _checked(inner[1], each, (*key, str(name)), problems)
            for name, each in value.items()
        }
    if isinstance(kind, type) and issubclass(kind, Model) and isinstance(value, Mapping):
        return _made(kind, _fill(kind, value, key, problems), value)
    if not _fits(kind, value):
        problems.append(WrongValue(key, f"Input should be {_words(kind)}"))
    elif kind is float:
        return float(value)
    elif kind is Path:
        return Path(value)
    return value


def _made[Made: Model](kind: type[Made], held: Mapping[str, Any], given: Iterable[str]) -> Made:
    """Return a model with these values, which are not checked."""
    made = object.__new__(kind)
    made.__dict__.update(held, _given=frozenset(given))
    return made


def _annotated(kind: Any, checks: tuple[Any, ...], value: Any, key: Key, problems: list[WrongValue]) -> Any:
    known = len(problems)
    for each in checks:
        if isinstance(each, Before):
            value = each.convert(value)
    value = _checked(kind, value, key, problems)
    for each in checks:
        if len(problems) > known:
            break
        try:
            value = value if isinstance(each, Before) else each(value)
        except ValueError as error:
            problems.append(WrongValue(key, str(error)))
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, key: Key, problems: list[WrongValue]) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    fitting = next((kind for kind in others if _fits(kind, value)), others[0] if len(others) == 1 else None)
    if fitting is not None:
        return _checked(fitting, value, key, problems)
    problems.append(WrongValue(key, f"Input should be {' or '.join(map(_words, others))}"))
    return value


def _fits(kind: Any, value: Any) -> bool:
    """Return whether a value is of a kind, without its checks and what is inside it."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _fits(get_args(kind)[0], value)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(kind))
    if origin is tuple:
        return isinstance(value, list | tuple)
    if origin is dict:
        return isinstance(value, dict)
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    accepted = {float: (int, float), Path: (str, Path)}.get(kind, kind)
    return isinstance(value, accepted)


def _words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        return _words(get_args(kind)[0])
    if origin is Literal:
        *first, last = map(repr, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple:
        return "a valid list"
    return f"a valid {_PLAIN.get(kind, 'table')}"
