"""Where each key of a TOML file stands: for messages that name a file and a line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher._util import toml
from launcher._util.errors import ConfigError
from launcher.contract import files

Part = str | int
"""A key, or the position in an array of tables."""

_LARGEST_BYTES = 1 << 20
_DEEPEST = 24
_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*""")


class TomlFile:
    """A TOML file: its values, and the line of each key."""

    def __init__(self, path: Path) -> None:
        """Read a file. Raises ConfigError, with the line where tomllib names one."""
        self.path = path
        try:
            self._text = files.read_text(path, limit=_LARGEST_BYTES)
            self.values: dict[str, Any] = toml.loads(self._text)
        except RecursionError:
            raise ConfigError(f"cannot be read: it is nested more than {_DEEPEST} deep", where=str(path)) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            line = re.search(r"\(at line (\d+)", str(error))
            raise ConfigError(f"cannot be read: {reason}", where=f"{path}:{line[1]}" if line else str(path)) from None
        if files.is_deeper_than(self.values, _DEEPEST):
            raise ConfigError(f"cannot be read: it is nested more than {_DEEPEST} deep", where=str(path))
        self._lines: dict[tuple[Part, ...], int] | None = None

    def line(self, key: Sequence[Part]) -> int | None:
        """Return the line of a key, or that of the nearest table around it; None where neither is found."""
        if self._lines is None:
            self._lines = {}
            for found, number in _scan(self._text):
                for length in range(1, len(found) + 1):
                    self._lines.setdefault(found[:length], number)
        for length in range(len(key), 0, -1):
            if (line := self._lines.get(tuple(key[:length]))) is not None:
                return line
        return None

    def where(self, key: Sequence[Part]) -> str:
        """Return `file:line` of a key."""
        line = self.line(key)
        return f"{self.path}:{line}" if line else str(self.path)


def _scan(text: str) -> Iterator[tuple[tuple[Part, ...], int]]:
    """Yield each key with its line. The text is valid TOML; keys of inline tables are found at the table's line."""
    table: tuple[Part, ...] = ()
    counts: dict[tuple[Part, ...], int] = {}
    rest = _values_blanked(text).splitlines()
    for number, line in enumerate(rest, 1):
        stripped = line.strip()
        if stripped.startswith("[["):
            array = _numbered(_parts(stripped[2:])[0], counts)
            counts[array] = counts.get(array, -1) + 1
            table = (*array, counts[array])
            yield table, number
        elif stripped.startswith("["):
            table = _numbered(_parts(stripped[1:])[0], counts)
            yield table, number
        elif stripped and not stripped.startswith("#"):
            parts, end = _parts(stripped)
            if parts and stripped[end : end + 1] == "=":
                yield (*table, *parts), number


def _numbered(parts: Sequence[str], counts: dict[tuple[Part, ...], int]) -> tuple[Part, ...]:
    """Return a table's key with the current position behind each array of tables above it."""
    key: tuple[Part, ...] = ()
    for position, part in enumerate(parts):
        key = (*key, part)
        if position < len(parts) - 1 and key in counts:
            key = (*key, counts[key])
    return key


def _parts(text: str) -> tuple[list[str], int]:
    """Return the parts of a dotted key at the beginning of a text, and where it ends."""
    parts, position = list[str](), 0
    while match := _KEY.match(text, position):
        parts.append(next(group for group in match.groups() if group is not None))
        position = match.end()
        if text[position : position + 1] != ".":
            break
        position += 1
    return parts, position


_BLANKED = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<value>(?<==)\s*(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''))"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"|'[^'\n]*')|(?P<open>(?<==)[ \t]*[\[{])""",
)


def _values_blanked(text: str) -> str:
    """Return the text with its multi-line values emptied: what is left of each line begins with a key, or is none."""
    kept, position = list[str](), 0
    while match := _BLANKED.search(text, position):
        kept.append(text[position : match.start()])
        end = match.end()
        if match["open"]:
            end = _closing(text, match.end() - 1)
        if match["open"] or match["value"]:
            kept.append("0" + "\n" * text.count("\n", match.start(), end))
        elif match["string"]:
            kept.append(match[0])
        position = end
    return "".join((*kept, text[position:]))


_INSIDE = re.compile(r"""\#[^\n]*|\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}]""")


def _closing(text: str, position: int) -> int:
    """Return where the list or table that opens at `position` ends."""
    depth = 0
    for match in _INSIDE.finditer(text, position):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
            if depth == 0:
                return match.end()
    return len(text)
