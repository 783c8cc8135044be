#!/usr/bin/env python3
"""Write the keys of Megatron Bridge's configuration and their types to configs/schemas/bridge-<version>.json.

The plan checks overrides against this file without importing Megatron. It is made from the installed package: every key
of ConfigContainer, `model.*` as the union of all model providers that can be imported here, `dataset.*` and `peft.*` as
the unions of their classes. A key that only one of them has is in the file; whether the recipe's own model has it is
known when the recipe runs. With --check nothing is written: a difference is printed and the exit status is 1.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import pkgutil
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_OPEN = ("dataset", "model", "peft")
"""Sections whose class the recipe chooses, beyond those that the annotation names."""
_DEEPEST = 3
"""Deeper classes are only parts of layer specifications."""

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from launcher.job.config import annotations  # noqa: E402 - from the checkout that this file lies in
from tools import committed  # noqa: E402 - likewise


def main(arguments: list[str] | None = None) -> int:
    """Generate or compare; returns the exit status."""
    options = committed.options_of(arguments, __doc__, _ROOT / "configs" / "schemas")
    schema = generate()
    path = options.directory / f"bridge-{schema['bridge']}.json"
    summary = f"{len(schema['keys'])} keys"
    return committed.write_or_compare(path, render(schema), check=options.check, summary=summary)


def generate() -> dict[str, Any]:
    """Return the schema of the installed Megatron Bridge, imported on CPU where there is no GPU."""
    _make_importable()
    from megatron.bridge.training.config import ConfigContainer

    _import_everything_configurable()
    keys: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    _section("", [ConfigContainer], keys, renamed, ())
    return {
        "bridge": importlib.metadata.version("megatron-bridge"),
        "core": importlib.metadata.version("megatron-core"),
        "renamed": dict(sorted(renamed.items())),
        "keys": dict(sorted(keys.items())),
    }


def render(schema: dict[str, Any]) -> str:
    """JSON with one key on a line, so that a change of version reads well as a diff."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in schema["keys"].items()]
    head = [f" {json.dumps(name)}: {json.dumps(schema[name])}," for name in ("bridge", "core", "renamed")]
    return "\n".join(["{", *head, ' "keys": {', ",\n".join(lines), " }", "}", ""])


def _make_importable() -> None:
    import torch

    if not torch.cuda.is_available():
        from launcher.job import cpu

        cpu.enable()


def _import_everything_configurable() -> None:
    """Model providers are found as subclasses, so their modules must be loaded: those of all models and all recipes."""
    models = importlib.import_module("megatron.bridge.models")
    for module in pkgutil.walk_packages(models.__path__, "megatron.bridge.models.", onerror=_left_out):
        if module.name.endswith("_provider"):
            _try_import(module.name)
    for name in ("recipes", "peft.lora", "peft.dora", "peft.canonical_lora"):
        _try_import(f"megatron.bridge.{name}")


def _try_import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # a model whose own dependencies are not installed
        _left_out(name)


def _left_out(name: str) -> None:
    print(f"left out {name}: {sys.exc_info()[1]!r}", file=sys.stderr)


def _section(
    prefix: str, classes: list[type], keys: dict[str, Any], renamed: dict[str, str], above: tuple[type, ...]
) -> None:
    """Add the keys below `prefix`, which holds an object of one of `classes`."""
    found: dict[str, list[Any]] = {}
    nested: dict[str, list[type]] = {}
    for cls in classes:
        hints = annotations.hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if annotations.is_settable(field)}
        for name, field in fields.items():
            if annotations.is_copy(name, fields):
                renamed[prefix + name] = prefix + annotations.COPIES[name]
                continue
            found.setdefault(name, []).append(annotations.field_spec(field, hints[name]))
            nested.setdefault(name, []).extend(_dataclasses_of(hints[name]))
    for name, specs in found.items():
        key = prefix + name
        keys[key] = annotations.union(specs)
        inner = [cls for cls in dict.fromkeys(_classes(key, nested[name])) if cls not in above]
        if inner and key.count(".") < _DEEPEST:
            _section(f"{key}.", inner, keys, renamed, (*above, *inner))


def _classes(key: str, annotated: list[type]) -> Iterator[type]:
    """Return the classes whose objects may stand at `key`: for a model every provider, for a dataset every subclass."""
    if key == "model":
        from megatron.bridge.models.model_provider import ModelProviderMixin

        annotated = [*annotated, ModelProviderMixin]
    found = _with_subclasses(annotated) if key in _OPEN else iter(annotated)
    return (cls for cls in found if dataclasses.is_dataclass(cls))


def _with_subclasses(classes: Iterable[type]) -> Iterator[type]:
    for cls in classes:
        yield cls
        children: list[type] = cls.__subclasses__()
        known = [one for one in children if one.__module__.startswith("megatron.")]
        yield from sorted(_with_subclasses(known), key=lambda one: f"{one.__module__}.{one.__qualname__}")


def _dataclasses_of(annotation: Any) -> Iterator[type]:
    alternatives = typing.get_args(annotation) if typing.get_origin(annotation) in annotations.UNIONS else (annotation,)
    return iter([cls for cls in alternatives if annotations.spec(cls) == "section"])


if __name__ == "__main__":
    sys.exit(main())
