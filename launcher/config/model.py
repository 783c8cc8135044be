"""Values that a person wrote into a file or on a command line: typed, frozen, all keys known.

The types are msgspec's, which imports in a sixth of pydantic's time (docs/explanation/architecture.md). msgspec stops
at the first mistake; `problems` names all, each with its key and what belongs there. The methods have the names of
pydantic's, so that these models and those of CloudAI's files read alike.
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import inspect, structs

from launcher.contract.values import nearest

if TYPE_CHECKING:
    from typing_extensions import Self

_END = r"\Z"

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*\Z"
"""The pattern of the name of an environment variable."""

LARGEST = 1.7976931348623157e308
"""The largest finite number: the limit of one that must not be infinite."""

Key = tuple[str, ...]
"""A field, then keys or indices below it."""


class WrongValue(NamedTuple):
    """One wrong value."""

    key: Key
    text: str
    """What is wrong with it, without the value of a text: it may be a secret."""
    known: tuple[str, ...] = ()
    """For an unknown key, those that its table has."""


class ModelError(ValueError):
    """Values that do not make a model."""

    def __init__(self, problems: Iterable[WrongValue]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{'.'.join(each.key)}: {each.text}" for each in self.problems))


class _FieldNames:
    """The names of a model's fields, in order; those with an underscore are not keys."""

    def __get__(self, _: object, owner: type[msgspec.Struct]) -> tuple[str, ...]:
        return _names(owner)


@cache
def _names(model: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(name for name in model.__struct_fields__ if not name.startswith("_"))


@cache
def _fields(model: "type[Model]") -> tuple[structs.FieldInfo, ...]:
    """Return the fields that are keys, in order. Their types are resolved once: a sweep asks for each of its points."""
    return tuple(field for field in structs.fields(model) if field.name in _names(model))


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of typed values. `Model(...)` takes values as they are, `model_validate` checks them."""

    model_fields: ClassVar[_FieldNames] = _FieldNames()
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = MappingProxyType({})
    """What a type cannot say: functions by field that raise ValueError for a wrong value."""
    text_check: ClassVar[Callable[[str], object] | None] = None
    """The same for every text, except where a type is Any."""

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> "Self":
        """Return the model of these values, lists as tuples. Raises ModelError."""
        if found := list(problems(cls, values)):
            raise ModelError(found)
        return msgspec.convert(dict(values), cls)

    def model_copy(self, *, update: Mapping[str, Any]) -> "Self":
        """Return the model with these values in place of its own. They are not checked."""
        return structs.replace(self, **update)

    def model_dump(self, *, exclude_defaults: bool = False, exclude: Container[str] = ()) -> dict[str, Any]:
        """Return the values as JSON has them."""
        plain = json.loads(json.dumps(msgspec.to_builtins(self)))
        return {
            field.name: plain[field.name]
            for field in _fields(type(self))
            if field.name not in exclude and not (exclude_defaults and getattr(self, field.name) == default_of(field))
        }

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """Return all values as JSON text."""
        separators = (",", ":") if indent is None else None
        return json.dumps(self.model_dump(), indent=indent, separators=separators, ensure_ascii=False)


def default_of(field: structs.FieldInfo) -> Any:
    """Return the default of a field; NODEFAULT for one that is required."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def problems(model: type[Model], values: Mapping[str, Any], key: Key = ()) -> Iterator[WrongValue]:
    """Yield what is wrong with the values of a model, in the order of its fields, then the unknown keys."""
    fields = {field.name: field for field in _fields(model)}
    for name, field in fields.items():
        here = (*key, name)
        if name not in values:
            if field.required:
                yield WrongValue(here, "is missing")
            continue
        wrong = list(_of_value(model, field.type, values[name], here))
        if not wrong and name in model.checks:
            wrong = list(_failed(model.checks[name], msgspec.convert(values[name], field.type), here))
        yield from wrong
    for name in values:
        if name not in fields:
            yield WrongValue((*key, str(name)), unknown_key(str(name), fields), tuple(fields))


def _of_value(model: type[Model], kind: Any, value: Any, key: Key) -> Iterator[WrongValue]:
    found = [each for part in _parts(kind, value, key) for each in _of_value(model, *part)]
    inner = _inner(kind)
    if isinstance(inner, type) and issubclass(inner, Model) and isinstance(value, Mapping):
        found = list(problems(inner, value, key))
    if not found:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            found = [WrongValue(key, _must_be(inspect.type_info(kind), value))]
        else:
            if isinstance(value, str) and kind is not Any and model.text_check is not None:
                found = list(_failed(model.text_check, value, key))
    yield from found


def _inner(kind: Any) -> Any:
    """Return a type without its limits and without None."""
    if get_origin(kind) is Annotated:
        return _inner(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        others = [each for each in get_args(kind) if each is not type(None)]
        return _inner(others[0]) if len(others) == 1 else kind
    return kind


def _parts(kind: Any, value: Any, key: Key) -> Iterator[tuple[Any, Any, Key]]:
    """Yield the items of a list, or the keys and values of a table, each with its type and its key."""
    kind = _inner(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield inner[0], each, (*key, str(at))
    elif origin is dict and isinstance(value, dict):
        for name, each in value.items():
            yield inner[0], name, (*key, str(name))
            yield inner[1], each, (*key, str(name))


def _failed(check: Callable[[Any], object], value: Any, key: Key) -> Iterator[WrongValue]:
    try:
        check(value)
    except ValueError as error:
        yield WrongValue(key, str(error))


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Return what is wrong with a key that is not one of the known ones."""
    near = nearest(name, known, count=1)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key"


def _must_be(kind: inspect.Type, value: object) -> str:
    """Return the sentence for a value of another type, or outside its limits."""
    text = f"must be {_words(kind)}"
    if isinstance(value, bool):
        return f"{text}, not {str(value).lower()}"
    if isinstance(value, int | float):
        return f"{text}, not {value}"
    if not isinstance(value, str):
        shape = _SHAPES.get(type(value), f"a {type(value).__name__}")
        return text if shape in text else f"{text}, not {shape}"
    known = [each for each in _literals(kind) if isinstance(each, str)]
    if known:
        near = nearest(value, known, count=1)
        return f"{text}; did you mean {near[0]!r}?" if near else text
    if any(isinstance(each, inspect.StrType) for each in _choices(kind)):
        return text if value else "is empty"
    return f"{text}, not a text"


_SHAPES: Mapping[type, str] = MappingProxyType({list: "a list", tuple: "a list", dict: "a table", type(None): "null"})


def _choices(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Return the types of a union except for None, or the one type."""
    types = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return tuple(each for each in types if not isinstance(each, inspect.NoneType))


def _literals(kind: inspect.Type) -> tuple[object, ...]:
    return tuple(value for each in _choices(kind) if isinstance(each, inspect.LiteralType) for value in each.values)


def _words(kind: inspect.Type) -> str:
    """Describe the values of a type."""
    match kind:
        case inspect.UnionType():
            return _joined([_words(each) for each in _choices(kind)])
        case inspect.LiteralType(values):
            return _joined([repr(each) for each in values])
        case inspect.IntType():
            return f"a whole number{_limits(kind)}"
        case inspect.FloatType(le=limit):
            return f"a {'finite ' if limit == LARGEST else ''}number{_limits(kind)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(pattern=pattern) if pattern == VARIABLE:
            return "the name of a variable"
        case inspect.StrType(pattern=pattern) if pattern is not None:
            return f"a text that matches {pattern.removeprefix('^').removesuffix(_END)}"
        case inspect.StrType():
            return "a text"
        case inspect.VarTupleType(min_length=least):
            return "a list" if least is None else f"a list with at least {least} {'item' if least == 1 else 'items'}"
        case _:
            return "a table" if isinstance(kind, inspect.DictType | inspect.StructType) else "a value of another kind"


def _joined(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    most = None if kind.le == LARGEST else kind.le
    least = None if kind.ge == -LARGEST else kind.ge
    if isinstance(kind, inspect.IntType) and kind.gt is not None:
        least = kind.gt + 1
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if kind.gt is not None:
        return f" above {kind.gt}"
    if least is not None:
        return f" of at least {least}"
    return f" of at most {most}" if most is not None else ""
