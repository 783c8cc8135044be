"""Arguments of Megatron-LM in YAML files: those of NVIDIA's model zoo, and Megatron-LM's own --yaml-cfg."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher._util.user_paths import user_path
from launcher.translation.table import Argument, ArgumentTable, load_table


def read_yaml(text: str, directory: Path) -> list[str]:
    """Return the words of a command line that a YAML file states. Raises ConfigError.

    Two forms are known: options as keys, on top or below MODEL_ARGS (`--num-layers: 61`), where true is a flag and
    false leaves it out; and Megatron-LM's --yaml-cfg, with the names of the parser as keys, in groups such as
    language_model.
    """
    import yaml  # type: ignore[import-untyped]

    path = user_path(text, directory, error=ConfigError)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError("does not hold arguments: a mapping such as MODEL_ARGS is expected", where=str(path))
    arguments = content.get("MODEL_ARGS", content)
    if not isinstance(arguments, dict):
        raise ConfigError("MODEL_ARGS is not a mapping", where=str(path))
    if any(str(key).startswith("-") for key in arguments):
        return [word for key, value in arguments.items() for word in _option_words(str(key), value)]
    return list(_named(load_table(), arguments))


def _option_words(option: str, value: Any) -> list[str]:
    if value is None or value is True:
        return [option]
    if value is False:
        return []
    values = value if isinstance(value, list) else str(value).split() if option == "--data-path" else [value]
    return [option, *(repr(one) if isinstance(one, float) else str(one) for one in values)]


def _named(table: ArgumentTable, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of arguments by the names of Megatron-LM's parser; groups are looked into."""
    for name, value in arguments.items():
        if isinstance(value, dict):
            yield from _named(table, value)
            continue
        argument = table.arguments.get(_RENAMED.get(str(name), str(name)))
        if argument is None:
            yield from _option_words(f"--{str(name).replace('_', '-')}", value)
        elif value is not None:
            yield from _words(argument, value)


_RENAMED = {
    "num_moe_experts": "num_experts",
    "activation_func": "activation_func",
    "layernorm_epsilon": "layernorm_epsilon",
}
"""Names that --yaml-cfg has from the configuration's classes."""


def _words(argument: Argument, value: Any) -> list[str]:
    words = argument.words(bool(value) if argument.type == "bool" else value)
    return words if words is not None else []
