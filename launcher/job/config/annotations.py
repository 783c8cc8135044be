"""Specs (see contract/values.py) from annotations of fields and parameters, and objects from plain values.

Hydra reads plain values (numbers, strings, lists, mappings); Megatron's fields sometimes hold an enum, a torch.dtype, a
tuple or a path. Bridge stores the plain value unchanged, and the mistake shows hours later or never.
"""

import collections.abc
import dataclasses
import enum
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

from ...contract.values import fits

_PLAIN = {int: "int", float: "float", bool: "bool", str: "str", type(None): "none", Any: "any", Path: "path"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping)
UNIONS = (typing.Union, types.UnionType)
"""What typing.get_origin returns for `Union[X, Y]` and for `X | Y`."""

COPIES = {"sequence_length": "seq_length"}
"""Fields that Bridge overwrites with another field of the same class when it finalizes, so a value for them is lost."""


def hints(cls: type) -> dict[str, Any]:
    """Return the evaluated annotations of all dataclass fields of `cls`, including those of its bases.

    Unlike typing.get_type_hints this survives annotations that only a type checker can evaluate (Bridge has some,
    behind TYPE_CHECKING): they become `typing.Any`.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        scope = vars(sys.modules.get(base.__module__, sys))
        for name, annotation in inspect.get_annotations(base).items():
            found[name] = evaluate(annotation, scope)
    # A plug-in adds a field where dataclasses keep them, often without an annotation.
    added = {name: field.type for name, field in getattr(cls, "__dataclass_fields__", {}).items() if name not in found}
    return {**found, **{name: evaluate(annotation, {}) for name, annotation in added.items()}}


def evaluate(annotation: Any, scope: dict[str, Any], otherwise: Any = Any) -> Any:
    """Return an annotation evaluated in `scope` if it is a string; `otherwise` where that fails."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(scope))  # noqa: S307 - text of an imported module that Python itself would evaluate
    except Exception:  # a name that exists for type checkers only, or an operator that its stand-in lacks
        return otherwise


def spec(annotation: Any) -> Any:
    """Return the spec of an annotation; "fixed" for what text cannot express (callables, objects of libraries)."""
    if isinstance(annotation, typing.ForwardRef):
        return "any"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (None, type(None)):
        return "none"
    if isinstance(annotation, collections.abc.Hashable) and annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is typing.Annotated:
        return spec(arguments[0])
    if origin in UNIONS:
        return union([spec(one) for one in arguments])
    if origin is typing.Literal:
        return {"literal": list(arguments)}
    if (origin or annotation) in _LISTS:
        return _sequence(origin or annotation, arguments)
    if (origin or annotation) in _DICTS:
        return {"dict": spec(arguments[1]) if len(arguments) == 2 else "any"}
    return _named(annotation)


def _sequence(container: Any, arguments: tuple[Any, ...]) -> Any:
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        return {"tuple": [spec(one) for one in arguments]}
    return {"list": spec(arguments[0]) if arguments else "any"}


def _named(annotation: Any) -> Any:
    if not isinstance(annotation, type) or annotation is object:
        return "fixed"
    if issubclass(annotation, enum.Enum):
        return {"enum": {one.name: one.value if isinstance(one.value, (int, str)) else one.name for one in annotation}}
    if annotation.__module__ == "torch" and annotation.__name__ == "dtype":
        return "dtype"
    if dataclasses.is_dataclass(annotation) and not is_library_object(annotation):
        return "section"
    return "fixed"


def is_library_object(cls: type) -> bool:
    """Return whether a dataclass is not a section: a layer specification or an object of Hugging Face's."""
    return any(base.__name__ in ("ModuleSpec", "PretrainedConfig", "PreTrainedConfig") for base in cls.__mro__)


def union(specs: list[Any]) -> Any:
    """Return one spec for several: flat, without repetition, literals joined, "fixed" kept only alone or with null."""
    flat: list[Any] = []
    for one in specs:
        flat.extend(one if isinstance(one, list) else [one])
    merged: list[Any] = []
    literals: list[Any] = []
    for one in flat:
        if isinstance(one, dict) and "literal" in one:
            literals.extend(value for value in one["literal"] if not _among(value, literals))
        elif one not in merged:
            merged.append(one)
    if literals:
        merged.append({"literal": literals})
    if "any" in merged:
        return "any"
    if any(one not in ("fixed", "none") for one in merged):
        merged = [one for one in merged if one != "fixed"]
    merged.sort(key=lambda one: one == "none")
    return merged[0] if len(merged) == 1 else merged


def _among(value: Any, values: list[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in values)


def field_spec(field: "dataclasses.Field[Any]", annotation: Any) -> Any:
    """Return the spec of a dataclass field; its default widens it, since many say `int` and default to None."""
    if field.name == "activation_func":
        return activation_names()
    found = spec(annotation)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = None if found == "section" else field.default_factory()
        if found == "section":
            return found
    if default is dataclasses.MISSING:
        return found
    return widen("fixed" if found == "any" and callable(default) else found, default)


def widen(found: Any, held: Any) -> Any:
    """Return `found` plus the type of the value that the field holds, where the annotation excludes that value."""
    if found in ("any", "fixed") or isinstance(held, (bool, str)) or callable(held):
        return found
    options = found if isinstance(found, list) else [found]
    if held is None:
        return union([found, "none"])
    if type(held) in (int, float) and not any(
        one in ("int", "float") or (isinstance(one, dict) and ("enum" in one or "literal" in one)) for one in options
    ):
        return union([found, "float" if type(held) is float else "int"])
    if type(held) is float and "int" in options and "float" not in options:
        return union([found, "float"])
    return found


def is_settable(field: "dataclasses.Field[Any]") -> bool:
    """Return whether users may set a field: it is neither private nor computed by its class."""
    return field.init and not field.name.startswith("_")


def is_copy(name: str, fields: collections.abc.Container[str]) -> bool:
    """Return whether the class, which has these fields, overwrites this one with its twin (see COPIES)."""
    return name in COPIES and COPIES[name] in fields


def activation_names() -> Any:
    """Return the spec of the one callable that Bridge takes by name, in releases that support it."""
    try:
        from megatron.bridge.utils.activation_map import ACTIVATION_FUNC_MAP
    except ImportError:
        return "fixed"
    return {"literal": sorted(ACTIVATION_FUNC_MAP)}


def coerce(value: Any, annotation: Any) -> Any:
    """Return the object that a plain value means: enum member, dtype, tuple, set or path.

    The value fits the annotation's spec. Raises ValueError for a data type that torch does not have.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return coerce(value, arguments[0])
    if origin in UNIONS:
        return coerce(value, _member(value, arguments))
    container = origin or annotation
    if isinstance(value, list) and container in _LISTS:
        inner = arguments if container is tuple and arguments and arguments[-1] is not Ellipsis else None
        items = [coerce(one, inner[i] if inner else arguments[0] if arguments else Any) for i, one in enumerate(value)]
        return container(items) if container in (tuple, set, frozenset) else items
    if isinstance(value, dict) and container in _DICTS and len(arguments) == 2:
        return {name: coerce(one, arguments[1]) for name, one in value.items()}
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _enum_member(value, annotation)
    return _dtype(value) if spec(annotation) == "dtype" and isinstance(value, str) else value


def _member(value: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the alternative that the value means: its own type first, so that `str | Path` stays a string."""
    exact = [one for one in arguments if one is type(value)]
    return next(iter(exact), None) or next((one for one in arguments if fits(value, spec(one))), Any)


def _enum_member(value: Any, kind: "type[enum.Enum]") -> Any:
    if isinstance(value, str) and value in kind.__members__:
        return kind[value]
    return next((one for one in kind if type(one.value) is type(value) and one.value == value), None) or kind(value)


def _dtype(name: str) -> Any:
    import torch

    try:
        from megatron.bridge.utils.activation_map import str_to_dtype

        return str_to_dtype(name)
    except (ImportError, ValueError):
        found = getattr(torch, name.removeprefix("torch."), None)
        if isinstance(found, torch.dtype):
            return found
        raise ValueError(f"torch has no data type {name!r}; it has bf16, fp16 and fp32, among others") from None
