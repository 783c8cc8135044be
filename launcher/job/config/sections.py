"""The sections of a Bridge configuration: which keys each has, and how a null section is created."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from ...contract import values
from . import annotations


def is_section(held: Any) -> bool:
    """Return whether an object of the configuration has keys of its own."""
    return (
        dataclasses.is_dataclass(held)
        and not isinstance(held, type)
        and not annotations.is_library_object(type(held))
        and hasattr(held, "__dict__")
    )


def fields(section: Any) -> dict[str, "dataclasses.Field[Any]"]:
    """Return the fields of a section (an object or a class) that a user may set, by name."""
    found = {field.name: field for field in dataclasses.fields(section) if annotations.is_settable(field)}
    return {name: field for name, field in found.items() if not annotations.is_copy(name, found)}


def shared_values(
    source: Any, kind: type, only: Optional[Sequence[str]] = None, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the values of `source` for the fields that a configuration of class `kind` has as well.

    Nothing is shared where `source` is not a dataclass.
    """
    if not dataclasses.is_dataclass(source):
        return {}
    known = {field.name for field in dataclasses.fields(kind) if annotations.is_settable(field)}
    found = known & {field.name for field in dataclasses.fields(source)}
    wanted = found if only is None else found & set(only)
    return {name: getattr(source, name) for name in sorted(wanted) if name not in without and hasattr(source, name)}


def keys(section: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a configuration as it stands, sections included."""
    for name in fields(section):
        yield prefix + name
        held = getattr(section, name, None)
        if is_section(held):
            yield from keys(held, f"{prefix}{name}.")


def spec(section: Any, name: str) -> Any:
    """Return the type that a field takes, given what it holds now (recipes hold objects where annotations say Any)."""
    held = getattr(section, name, None)
    found = annotations.field_spec(fields(section)[name], annotations.hints(type(section)).get(name, Any))
    if found == "any" and not is_section(held) and not _is_plain(held):
        return "fixed"
    return annotations.widen(found, held)


def _is_plain(held: Any) -> bool:
    return held is None or isinstance(held, (bool, int, float, str, list, tuple, dict, set))


def classes(annotation: Any) -> list[type]:
    """Return the section classes that an annotation names."""
    alternatives = typing.get_args(annotation) if typing.get_origin(annotation) in annotations.UNIONS else (annotation,)
    return [one for one in alternatives if annotations.spec(one) == "section"]


def create(key: str, annotation: Any, held: Any, given: Mapping[str, Any]) -> Any:
    """Return a section for `key`, which so far holds null or a name (`mixed_precision: bf16_mixed`).

    `given` are the values that the user sets in it; what its class requires is taken from there. Raises Refused where
    the annotation names several classes, or a required value is missing.
    """
    found = classes(annotation)
    if isinstance(held, str):
        return _by_name(key, held)
    if len(found) != 1 or inspect.isabstract(found[0]):
        names = [_path(one) for cls in found for one in _concrete(cls)]
        raise values.Refused(
            f"{key} is null in this recipe, and its class is not clear: {', '.join(names)}",
            f"set it in the recipe, or choose a class with '{key}={{_target_: {names[0]}}}'" if names else None,
        )
    cls = found[0]
    hints = annotations.hints(cls)
    arguments = {}
    for name, field in fields(cls).items():
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            continue
        if name not in given:
            raise values.Refused(
                f"{key} is null in this recipe, and a new {cls.__name__} also needs {key}.{name}",
                f"add {key}.{name}=..., or set {key} in the recipe",
            )
        values.check(f"{key}.{name}", given[name], annotations.field_spec(field, hints[name]))
        arguments[name] = annotations.coerce(given[name], hints[name])
    return cls(**arguments)


def instantiate(key: str, annotation: Any, value: Mapping[str, Any]) -> Any:
    """Return the object that a mapping with `_target_` describes, as Bridge makes it. Raises Refused."""
    from megatron.bridge.utils.instantiate_utils import instantiate as make

    try:
        made = make(dict(value))
    except Exception as error:  # whatever the class or Bridge's own checks raise
        raise values.Refused(f"{key} cannot be made from _target_ {value['_target_']}: {error}") from error
    found = tuple(classes(annotation))
    if not isinstance(made, found):
        names = " or ".join(cls.__name__ for cls in found)
        raise values.Refused(f"{key} takes a {names}, but {value['_target_']} makes a {type(made).__name__}")
    return made


def _by_name(key: str, name: str) -> Any:
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    if key != "mixed_precision":
        raise values.Refused(f"{key} is the text {name!r}, which has no keys")
    try:
        return get_mixed_precision_config(name)
    except ValueError as error:
        raise values.Refused(str(error)) from None


def _concrete(cls: type) -> list[type]:
    found = [] if inspect.isabstract(cls) or not dataclasses.is_dataclass(cls) else [cls]
    children: list[type] = cls.__subclasses__()
    for child in children:
        found += _concrete(child)
    return found


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
