"""The table of Megatron-LM's arguments and Megatron Bridge's keys (configs/mlm), and the reading of argument lists.

The table is generated from the installed releases by tools/mlm_arguments.py, so that neither torch nor Megatron is
needed here.
"""

import ast
import fnmatch
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher._util.errors import RequestError
from launcher._util.resources import resource
from launcher.contract.values import nearest

Stored = bool | str
"""What an option stores: true, false, one "value", or a "list" of them."""


@dataclass(frozen=True)
class TranslationRule:
    """One way in which an argument is said in Bridge's configuration; `when` names values that other arguments have."""

    keys: tuple[str, ...] = ()
    invert: bool = False
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)
    always: str | None = None
    """Why Bridge needs no key for it."""
    none: str | None = None
    """The reason, of the table's closed list, why Bridge has no counterpart."""
    why: str | None = None
    special: str | None = None
    """The function of special.py that computes it."""
    back: bool = True
    """Whether the way back uses this argument."""


@dataclass(frozen=True)
class Argument:
    """One argument of Megatron-LM, by the name under which its parser stores it."""

    name: str
    options: Mapping[str, Stored]
    type: str
    default: Any
    rows: tuple[TranslationRule, ...]
    choices: tuple[Any, ...] = ()

    def row(self, values: Mapping[str, Any]) -> TranslationRule:
        """Return the row that holds with these values of all arguments."""
        return next(
            (row for row in self.rows if all(values.get(name) == wanted for name, wanted in row.when.items())),
            self.rows[-1],
        )

    def words(self, value: Any) -> list[str] | None:
        """Return the words of a command line that give the argument `value`; None where no option does.

        No words are needed for a flag that has the value anyway.
        """
        if self.type == "bool":
            option = next((option for option, stored in self.options.items() if stored is value), None)
            return [option] if option else ([] if bool(self.default) == value else None)
        if value is None:
            return [] if self.default is None else None
        option, stored = next(iter(self.options.items()))
        if stored == "list":
            return [option, *(_word(one) for one in (value if isinstance(value, list) else [value]))]
        if self.type == "tuple" and isinstance(value, list):
            return [option, ",".join(str(one) for one in value)]
        return [option, _pattern(value) if self.type == "pattern" else _word(value)]


@dataclass(frozen=True)
class Given:
    """One argument as the user gave it."""

    argument: Argument | None
    """None where Megatron-LM has no such argument."""
    value: Any
    text: str
    """The words, as they were."""


@dataclass(frozen=True)
class ArgumentTable:
    """All arguments of one release of Megatron-LM beside the keys of one release of Bridge."""

    core: str
    bridge: str
    base: str
    """The recipe of Bridge that a translation starts from."""
    reasons: Mapping[str, str]
    key_reasons: Mapping[str, str]
    keep: tuple[str, ...]
    only_with: Mapping[str, str]
    recipe: Mapping[str, Any]
    """What the recipe sets, by key."""
    arguments: Mapping[str, Argument]
    keys: Mapping[str, str]
    """Bridge's keys that no argument sets, with the reason."""
    precisions: Mapping[str, Mapping[str, Any]]
    """What the names of `mixed_precision` stand for."""

    @functools.cached_property
    def options(self) -> dict[str, Argument]:
        """Return the arguments by option."""
        return {option: one for one in self.arguments.values() for option in one.options}

    @functools.cached_property
    def by_key(self) -> dict[str, tuple[Argument, ...]]:
        """Return the arguments that set a key, by key."""
        found: dict[str, list[Argument]] = {}
        for one in self.arguments.values():
            for key in dict.fromkeys(key for row in one.rows if row.back for key in keys_of(row)):
                found.setdefault(key, []).append(one)
        return {key: tuple(some) for key, some in found.items()}

    def defaults(self) -> dict[str, Any]:
        """Return the values of all arguments that are not given."""
        return {name: one.default for name, one in self.arguments.items()}

    def is_kept(self, key: str) -> bool:
        """Return whether a difference of this key changes no loss."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.keep)

    def read(self, words: Sequence[str]) -> list[Given]:
        """Read a command line of Megatron-LM. Raises RequestError for a value that an argument does not take."""
        found: list[Given] = []
        rest = list(words)
        while rest:
            option, joined, value = rest.pop(0).partition("=")
            argument = self.options.get(option)
            if argument is None:
                text = [option + joined + value]
                while rest and not _is_option(rest[0]):
                    text.append(rest.pop(0))
                found.append(Given(None, None, " ".join(text)))
                continue
            stored = argument.options[option]
            if isinstance(stored, bool):
                if joined:
                    raise RequestError("takes no value", where=option)
                found.append(Given(argument, stored, option))
                continue
            taken = [value] if joined else []
            while rest and not _is_option(rest[0]) and (stored == "list" or not taken):
                taken.append(rest.pop(0))
            if not taken:
                raise RequestError("needs a value", where=option)
            text_of = " ".join([option, *taken])
            read = [_read(argument, option, one) for one in taken]
            found.append(Given(argument, read if stored == "list" else read[0], text_of))
        return found

    def near(self, option: str) -> str | None:
        """Return the option most like an unknown one."""
        return next(iter(nearest(option, self.options, count=1)), None)


def keys_of(row: TranslationRule) -> tuple[str, ...]:
    """Return the keys that a row sets."""
    return (*row.keys, *(key for one in row.values.values() for key in one))


@functools.cache
def load_table() -> ArgumentTable:
    """Return the newest table that ships."""
    path = max(resource("configs/mlm").glob("arguments-*.json"), key=lambda path: _version(path.stem))
    stored = json.loads(path.read_text(encoding="utf-8"))
    arguments = {name: _argument(name, one) for name, one in stored["arguments"].items()}
    return ArgumentTable(**{**stored, "keep": tuple(stored["keep"]), "arguments": arguments})


def _version(stem: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", stem))


def _argument(name: str, stored: Mapping[str, Any]) -> Argument:
    rows = tuple(TranslationRule(**{**row, "keys": tuple(row.get("keys", ()))}) for row in stored["to"])
    choices = tuple(stored.get("choices", ()))
    return Argument(name, stored["options"], stored["type"], stored["default"], rows, choices)


def _is_option(word: str) -> bool:
    """Return whether a word begins the next argument; a negative number does not."""
    return word.startswith("--") or bool(re.match(r"-[A-Za-z]", word))


def _read(argument: Argument, option: str, text: str) -> Any:
    """Return the value that a word means, as Megatron-LM's parser reads it. Raises RequestError."""
    try:
        value = _READERS[argument.type](text)
    except (ValueError, SyntaxError):
        raise RequestError(f"takes {_TYPES[argument.type]}, not {text!r}", where=option) from None
    if argument.choices and value not in argument.choices:
        names = ", ".join(str(one) for one in argument.choices)
        raise RequestError(f"takes one of {names}, not {text!r}", where=option)
    return value


def _read_pattern(text: str) -> Any:
    """Return a frequency: a whole number, or the list of an expression such as "[0]*3+[1]*58"."""
    if "[" not in text:
        return int(text)
    if not re.fullmatch(r"[\d\[\]()+*,\s]+", text):
        raise ValueError(text)
    found = _evaluate(ast.parse(text.strip(), mode="eval").body)
    if not isinstance(found, list):
        raise ValueError(text)
    return found


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.List):
        return [_evaluate(one) for one in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add) and type(left) is type(right):
            return left + right
        if (
            isinstance(node.op, ast.Mult)
            and isinstance(right, int)
            and (isinstance(left, int) or right <= _MOST_LAYERS)
        ):
            return left * right
    raise ValueError("not a list expression")


_MOST_LAYERS = 10_000

_READERS: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: bool(text),  # argparse's bool(): any text is true
    "pattern": _read_pattern,
    "tuple": lambda text: [int(one) for one in text.strip("()").split(",")],
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "any text",
    "pattern": "a whole number or a list such as [0]*3+[1]*58",
    "tuple": "whole numbers separated by commas",
}


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _pattern(value: Any) -> str:
    """Return a list as Megatron-LM's expressions write it, equal neighbours together."""
    if not isinstance(value, list):
        return str(value)
    if not value or not all(isinstance(one, int) for one in value):
        return str(value).replace(" ", "")
    parts: list[list[int]] = []
    for one in value:
        if parts and parts[-1][0] == one:
            parts[-1][1] += 1
        else:
            parts.append([one, 1])
    return "+".join(f"[{one}]*{count}" if count > 1 else f"[{one}]" for one, count in parts)
