"""The check that a value from a JSON file has the form that a TypedDict describes."""

import functools
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")


class ContractError(ValueError):
    """A value that does not have the form that the launcher and its jobs agree on; the message names every place."""


def is_number(value: object) -> bool:
    """Return whether a value from JSON is a finite number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def conforming(value: object, kind: type[T], *, unknown_keys: bool = False) -> T:
    """Return `value` as a `kind`. Raises ContractError where it has another form."""
    found = list(problems(value, kind, unknown_keys=unknown_keys))
    if found:
        raise ContractError("; ".join(found))
    return value  # type: ignore[return-value] # which has just been seen


def problems(value: object, kind: Any, *, unknown_keys: bool = False) -> Iterator[str]:
    """Return a sentence for each place in which `value` differs from the type `kind`.

    `kind` is a TypedDict, or is made of TypedDict, dict, list, tuple, Literal, Optional, Union, Any and plain JSON
    types. `unknown_keys` admits keys that a TypedDict lacks: a reader may be older than the writer.
    """
    if _test(kind, unknown_keys)(value):
        return iter(())
    return _problems(value, kind, unknown_keys, "")


@functools.cache  # listings validate the records of many runs
def _test(kind: Any, unknown_keys: bool) -> Callable[[object], bool]:
    """Return a quick test of a type: whether a value has no problems."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        required = kind.__required_keys__
        tests = {name: _test(hint, unknown_keys) for name, hint in _hints(kind).items()}

        def fits(value: object) -> bool:
            return (
                isinstance(value, dict)
                and value.keys() >= required
                and all(tests[name](held) if name in tests else unknown_keys for name, held in value.items())
            )

        return fits
    if origin in (Union, types.UnionType):
        alternatives = [_test(each, unknown_keys) for each in inner]
        return lambda value: any(test(value) for test in alternatives)
    if kind is not Any and origin is None:
        return lambda value: _is_plain(value, kind)
    return lambda value: not any(_problems(value, kind, unknown_keys, ""))


def _problems(value: object, kind: Any, unknown_keys: bool, place: str) -> Iterator[str]:
    """Yield the sentences of `problems`; `place` is that of the value in the file."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        yield from _typed_dict(value, kind, unknown_keys, place)
    elif origin in (Union, types.UnionType):
        found = [list(_problems(value, each, unknown_keys, place)) for each in inner]
        if all(found):
            # The alternative that comes nearest says most; of several, the first.
            yield min(found, key=lambda each: (each[0].startswith(_at(place, "is ")), len(each)))[0]
    elif origin is Literal:
        if not any(value == each and type(value) is type(each) for each in inner):
            yield _at(place, f"is {value!r}, not one of {', '.join(map(repr, inner))}")
    elif origin is dict:
        yield from _mapping(value, inner[1], unknown_keys, place)
    elif origin in (list, tuple):
        yield from _sequence(value, inner, origin is tuple, unknown_keys, place)
    elif not _is_plain(value, kind):
        yield _at(place, f"is {value!r}, not {'null' if kind is type(None) else kind.__name__}")


def _typed_dict(value: object, kind: Any, unknown_keys: bool, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _at(place, f"is {value!r}, not an object")
        return
    hints = _hints(kind)
    for name in sorted(kind.__required_keys__ - value.keys()):
        yield _at(place, f"lacks {name!r}")
    for name, held in value.items():
        if name in hints:
            yield from _problems(held, hints[name], unknown_keys, f"{place}.{name}".lstrip("."))
        elif not unknown_keys:
            yield _at(place, f"has the unknown key {name!r}")


@functools.cache  # listings validate the records of many runs
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _mapping(value: object, kind: Any, unknown_keys: bool, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _at(place, f"is {value!r}, not an object")
        return
    for name, held in value.items():
        yield from _problems(held, kind, unknown_keys, f"{place}.{name}".lstrip("."))


def _sequence(value: object, kinds: tuple[Any, ...], fixed: bool, unknown_keys: bool, place: str) -> Iterator[str]:
    if not isinstance(value, (list, tuple)):
        yield _at(place, f"is {value!r}, not a list")
    elif fixed and len(value) != len(kinds):
        yield _at(place, f"has {len(value)} items, not {len(kinds)}")
    else:
        for number, held in enumerate(value):
            kind = kinds[number] if fixed else kinds[0]
            yield from _problems(held, kind, unknown_keys, f"{place}[{number}]")


def _is_plain(value: object, kind: Any) -> bool:
    # JSON has one kind of number, and true is not one.
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) <= sys.float_info.max  # JSON's integers have any length
    return isinstance(value, kind)


def _at(place: str, text: str) -> str:
    return f"{place} {text}" if place else text
