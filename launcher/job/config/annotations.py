"""From the annotation of a field or parameter to a spec (see values.py), and from a plain value to the object meant.

What Hydra reads is plain (numbers, strings, lists, mappings); what Megatron's fields hold is sometimes an enum, a
torch.dtype, a tuple or a path. Bridge stores the plain value as it is, and the mistake shows hours later or never.
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
"""What typing.get_origin says of `Union[X, Y]` and of `X | Y`."""

COPIES = {"sequence_length": "seq_length"}
"""Fields that Bridge overwrites with another one of the same class when it finalizes: a value given to them is lost."""


def hints(cls: type) -> dict[str, Any]:
    """The evaluated annotations of all dataclass fields of `cls`, those of its bases included.

    Unlike typing.get_type_hints this survives annotations that only a type checker can evaluate (Bridge has some,
    behind TYPE_CHECKING): they read as `typing.Any`.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        scope = vars(sys.modules.get(base.__module__, sys))
        for name, annotation in inspect.get_annotations(base).items():
            found[name] = evaluate(annotation, scope)
    return found


def evaluate(annotation: Any, scope: dict[str, Any], otherwise: Any = Any) -> Any:
    """An annotation that may be a string, evaluated in `scope`; `otherwise` where it cannot be."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(scope))  # noqa: S307 - text of an imported module, which Python itself would evaluate
    except Exception:  # a name that exists for type checkers only, or an operator that its stand-in lacks
        return otherwise


def spec(annotation: Any) -> Any:
    """The spec of an annotation; what text cannot stand for (callables, objects of libraries) is "fixed"."""
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
    """Whether a dataclass is no section of a configuration: a layer specification, or one of Hugging Face's objects."""
    return any(base.__name__ in ("ModuleSpec", "PretrainedConfig", "PreTrainedConfig") for base in cls.__mro__)


def union(specs: list[Any]) -> Any:
    """One spec for several: flat, no repetition, literals joined, "fixed" only where nothing but null is beside it."""
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
    """The spec of a dataclass field, its default respected: many say `int` and default to None."""
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
    """`found` with the type of a value added that the field holds already, where the annotation does not admit it."""
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
    """Whether a field is the user's; private ones and those that the class computes itself are not."""
    return field.init and not field.name.startswith("_")


def is_copy(name: str, fields: collections.abc.Container[str]) -> bool:
    """Whether the class, which has these fields, overwrites this one with its twin (see COPIES)."""
    return name in COPIES and COPIES[name] in fields


def activation_names() -> Any:
    """The one callable that Bridge takes by name, where the release knows how."""
    try:
        from megatron.bridge.utils.activation_map import ACTIVATION_FUNC_MAP
    except ImportError:
        return "fixed"
    return {"literal": sorted(ACTIVATION_FUNC_MAP)}


def coerce(value: Any, annotation: Any) -> Any:
    """The object that a plain value, which fits the annotation's spec, means: enum member, dtype, tuple, set or path.

    Raises ValueError for a data type that torch does not have.
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
    """The alternative that the value means: its own plain type first, so that `str | Path` stays a string."""
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
        raise ValueError(f"torch has no data type {name!r}; bf16, fp16 and fp32 are some that it has") from None
