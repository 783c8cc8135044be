#!/usr/bin/env python3
"""Write the translation table of Megatron-LM's arguments to configs/mlm/arguments-<version of megatron-core>.json.

It is made from Megatron-LM's own argument parser (megatron.training.arguments), from the schema of Bridge's
configuration (configs/schemas), from the values of Bridge's plain GPT recipe, and from configs/mlm/rules.toml, which
says what a name alone does not. An argument that neither a rule nor a key of the same name accounts for is an error.
With --check nothing is written: a difference is printed and the exit status is 1.
"""

import argparse
import dataclasses
import enum
import fnmatch
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from launcher._util import toml  # noqa: E402
from tools import committed  # noqa: E402 - from the checkout that this file lies in

BASE = "vanilla_gpt_pretrain_config"
"""The recipe that a translation to Bridge starts from."""


def main(arguments: list[str] | None = None) -> int:
    """Generate or compare; returns the exit status."""
    options = committed.options_of(arguments, __doc__, _ROOT / "configs" / "mlm")
    table = generate()
    path = options.directory / f"arguments-{table['core']}.json"
    summary = f"{len(table['arguments'])} arguments, {len(table['keys'])} keys without one"
    return committed.write_or_compare(path, render(table), check=options.check, summary=summary)


def generate() -> dict[str, Any]:
    """Return the table of the installed releases. Raises ValueError for what is not accounted for."""
    import torch

    if not torch.cuda.is_available():
        from launcher.job import cpu

        cpu.enable()
    rules = toml.loads((_ROOT / "configs" / "mlm" / "rules.toml").read_text(encoding="utf-8"))
    bridge = importlib.metadata.version("megatron-bridge")
    schema = json.loads((_ROOT / "configs" / "schemas" / f"bridge-{bridge}.json").read_text(encoding="utf-8"))["keys"]
    ours = _fields()
    arguments = _arguments()
    if unknown := sorted(set(rules["arguments"]) - set(arguments) - _OPTIONAL):
        raise ValueError(f"rules for arguments that Megatron-LM does not have: {', '.join(unknown)}")
    for name, argument in arguments.items():
        argument["to"] = _rows(name, argument.pop("group"), rules, schema, ours)
        for row in argument["to"]:
            if missing := [key for key in _keys_of(row) if key not in schema]:
                raise ValueError(f"{name}: {', '.join(missing)} is not a key of Megatron Bridge {bridge}")
    taken = {key for argument in arguments.values() for row in argument["to"] for key in _keys_of(row)}
    return {
        "core": importlib.metadata.version("megatron-core"),
        "bridge": bridge,
        "base": BASE,
        "reasons": rules["reasons"],
        "key_reasons": rules["key_reasons"],
        "keep": rules["defaults"]["keep"],
        "only_with": rules["defaults"]["only_with"],
        "recipe": _recipe_values(taken),
        "precisions": _precisions(),
        "arguments": dict(sorted(arguments.items())),
        "keys": {
            key: reason
            for key, spec in sorted(schema.items())
            if key not in taken and (reason := _key_reason(key, spec, ours, rules["sections"]["derived"]))
        },
    }


def render(table: dict[str, Any]) -> str:
    """Return JSON with one argument or key on a line, so that a change of version reads well as a diff."""
    parts = []
    for name, value in table.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items())
            parts.append(f" {json.dumps(name)}: {{\n{inner}\n }}")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


_OPTIONAL = frozenset(
    ("retro_add_retriever", "deprecated_use_mcore_models", "use_mcore_models", "dist_ckpt_format", "use_dist_ckpt")
)
"""Rules for arguments that some releases have under another name."""


def _arguments() -> dict[str, dict[str, Any]]:
    from megatron.training.arguments import add_megatron_arguments

    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_megatron_arguments(parser)
    found: dict[str, dict[str, Any]] = {}
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._HelpAction):
                continue
            one = found.setdefault(
                action.dest, {"options": {}, **_value(action), "default": _plain(action.default), "group": group.title}
            )
            one["options"].update(_options(action))
    return found


def _options(action: argparse.Action) -> dict[str, Any]:
    """Return what each option stores: true or false, one `value`, or a `list`."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return {option: not option.startswith("--no-") for option in action.option_strings}
    if isinstance(action, argparse._StoreTrueAction | argparse._StoreFalseAction):
        return dict.fromkeys(action.option_strings, action.const)
    return dict.fromkeys(action.option_strings, "value" if action.nargs is None else "list")


def _value(action: argparse.Action) -> dict[str, Any]:
    """Return the type of an argument's value, and the values that it admits."""
    if action.nargs == 0:
        return {"type": "bool"}
    choices = list(action.choices) if action.choices is not None else None
    name = getattr(action.type, "__name__", "str")
    if choices and isinstance(choices[0], enum.Enum):
        return {"type": "str", "choices": [one.name for one in choices]}
    kind = {"int": "int", "float": "float", "bool": "bool", "tuple_type": "tuple"}.get(name, "str")
    if name.endswith("_freq_type"):
        kind = "pattern"
    return {"type": kind, **({"choices": choices} if choices else {})}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Path) and Path(value).is_relative_to(Path.cwd()):
        # Bridge makes its default directories absolute, from where it is started.
        return str(Path(value).relative_to(Path.cwd()))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _rows(name: str, group: str, rules: dict[str, Any], schema: dict[str, Any], ours: set[str]) -> list[dict[str, Any]]:
    given = rules["arguments"].get(name)
    if given is not None:
        return given if isinstance(given, list) else [given]
    for prefix, reason in rules["prefixes"].items():
        if name.startswith(prefix):
            return [{"none": reason}]
    sections = [one for one in rules["sections"]["fill"] if f"{one}.{name}" in schema]
    keys = [key for one in sections if (key := f"{one}.{name}") in ours and key not in rules["sections"]["not_filled"]]
    if keys:
        return [{"keys": keys}]
    if group in rules["groups"]:
        return [{"none": rules["groups"][group]}]
    if sections:
        return [{"none": "other model"}]
    raise ValueError(f"--{name.replace('_', '-')} ({group}) is not accounted for: add a rule to configs/mlm/rules.toml")


def _keys_of(row: dict[str, Any]) -> list[str]:
    return [*row.get("keys", ()), *(key for one in row.get("values", {}).values() for key in one)]


def _fields() -> set[str]:
    """Return the keys of the configuration of a GPT's pretraining."""
    from megatron.bridge.models.gpt_provider import GPTModelProvider
    from megatron.bridge.training.config import ConfigContainer, GPTDatasetConfig
    from megatron.core.transformer import MLATransformerConfig

    from launcher.job.config import annotations

    found: set[str] = set()
    for section, hint in annotations.hints(ConfigContainer).items():
        classes = {"model": [GPTModelProvider, MLATransformerConfig], "dataset": [GPTDatasetConfig]}.get(section)
        for cls in classes or [one for one in _classes(hint) if dataclasses.is_dataclass(one)]:
            found |= {f"{section}.{field.name}" for field in dataclasses.fields(cls)}
    return found


def _classes(hint: Any) -> Iterator[Any]:
    import typing

    yield hint
    for one in typing.get_args(hint):
        yield from _classes(one)


def _key_reason(key: str, spec: Any, ours: set[str], derived: list[str]) -> str:
    """Return why a key has no argument."""
    section, _, rest = key.partition(".")
    options = spec if isinstance(spec, list) else [spec]
    if "section" in options:
        return "section"
    if section == "peft" or (section in ("model", "dataset") and key not in ours):
        return "nested" if "." in rest else "other model"
    if all(one in ("fixed", "none") for one in options):
        return "object"
    if section in ("mixed_precision", "comm_overlap"):
        return "nested"
    return "derived" if any(fnmatch.fnmatchcase(key, one) for one in derived) else "Bridge's own"


def _recipe_values(taken: set[str]) -> dict[str, Any]:
    """Return what Bridge's plain GPT recipe sets of the keys in `taken`, where it is plain."""
    from megatron.bridge import recipes

    config = getattr(recipes, BASE)()
    # Bridge's validation turns both on where one is.
    sharded = config.optimizer.use_distributed_optimizer or config.ddp.use_distributed_optimizer
    config.optimizer.use_distributed_optimizer = config.ddp.use_distributed_optimizer = sharded
    found = {}
    for key in sorted(taken):
        section, _, name = key.partition(".")
        held = getattr(getattr(config, section, None), name, _ABSENT) if name else getattr(config, section)
        if held is _ABSENT or not isinstance(held, bool | int | float | str | list | tuple | enum.Enum | None):
            continue
        found[key] = _plain(held)
    return found


def _precisions() -> dict[str, dict[str, Any]]:
    """Return what each name of a mixed precision sets otherwise than the plain one of its type."""
    from megatron.bridge.training.mixed_precision import MIXED_PRECISION_RECIPES

    made = {name: make() for name, make in MIXED_PRECISION_RECIPES.items() if "-" not in name}
    found = {}
    for name, one in sorted(made.items()):
        plain = made["bf16_mixed" if one.bf16 else "fp16_mixed"]
        names = [field.name for field in dataclasses.fields(one)]
        found[name] = {key: _plain(getattr(one, key)) for key in names if getattr(one, key) != getattr(plain, key)}
    return found


_ABSENT = object()


if __name__ == "__main__":
    sys.exit(main())
