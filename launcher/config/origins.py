"""Origins of a profile's values: each with the comment beside it, its file, and the values that it replaces.

The reason for a value is the comment at the end of its line, else the comment lines directly above it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher.config.load import cluster_chain, unset_keys
from launcher.contract import files

Key = tuple[str, ...]
"""`("env", "NCCL_DEBUG")` is the key NCCL_DEBUG of the table [env]."""


@dataclass(frozen=True)
class Stated:
    """A value as one file states it, with its reason."""

    value: Any
    reason: str | None
    file: Path


@dataclass(frozen=True)
class Origin:
    """A value of an effective profile, with the statements behind it."""

    key: Key
    stated: Stated
    replaced: tuple[Stated, ...]
    """Different values for the same key in the profiles that this one extends, the nearest first."""

    @property
    def name(self) -> str:
        """Return the key as one string with dots."""
        return ".".join(self.key)


def origins(name: str, environ: Mapping[str, str]) -> tuple[Origin, ...]:
    """Return every value of a profile in the order of its files, the base first.

    Raises ConfigError if a profile is missing, cannot be read or extends itself.
    """
    found: dict[Key, tuple[Stated, ...]] = {}
    for _, path in reversed(cluster_chain(name, environ)):
        for key, (value, reason) in read_reasons(_text(path), where=str(path)).items():
            if key == ("unset",):
                for gone in unset_keys({"unset": value}, where=str(path)):
                    found.pop(tuple(gone.split(".", 1)), None)
            elif key != ("extends",):
                found[key] = (Stated(value, reason, path), *found.get(key, ()))
    return tuple(Origin(key, stated[0], _others(stated)) for key, stated in found.items())


def _others(stated: tuple[Stated, ...]) -> tuple[Stated, ...]:
    """Return the statements whose value differs from that of the first."""
    return tuple(each for each in stated[1:] if each.value != stated[0].value)


def read_reasons(text: str, *, where: str = "the text") -> dict[Key, tuple[Any, str | None]]:
    """Return every value of a TOML text with its reason; a key inside a table has several parts.

    Raises ConfigError for text that is not valid TOML.
    """
    import tomlkit  # here, not at the top: few commands show where a value comes from
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ConfigError(f"cannot be read: {error}", where=where) from error
    return dict(_walk(document.body, ()))


def _walk(
    body: Iterable[tuple[Any, Any]], table: Key, above: tuple[str, ...] = ()
) -> Iterable[tuple[Key, tuple[Any, str | None]]]:
    """Yield the values of a table; `above` holds the comment lines before its first value."""
    from tomlkit.items import Comment, Table, Whitespace

    lines = list(above)
    for key, item in body:
        if isinstance(item, Comment):
            lines.append(_words(item.trivia.comment))
        elif isinstance(item, Whitespace) or key is None:
            lines = []
        elif isinstance(item, Table):
            # `env.NAME = ...` is a table as well, and the comment above it belongs to NAME.
            yield from _walk(item.value.body, (*table, key.key), tuple(lines) if key.is_dotted() else ())
            lines = []
        else:
            yield from _value((*table, key.key), item, tuple(lines))
            lines = []


def _value(key: Key, item: Any, above: tuple[str, ...]) -> Iterable[tuple[Key, tuple[Any, str | None]]]:
    behind = _words(item.trivia.comment)
    reason = behind or "\n".join(above) or None
    value = item.unwrap()
    for inner, each in value.items() if isinstance(value, dict) else [(None, value)]:
        yield (key if inner is None else (*key, inner)), (each, reason)


def _words(comment: str) -> str:
    return comment.removeprefix("#").removeprefix(" ").rstrip()


def _text(path: Path) -> str:
    try:
        return files.read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot be read: {reason}", where=str(path)) from error
