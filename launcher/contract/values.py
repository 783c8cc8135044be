"""Override texts in Hydra's grammar, and whether a value fits a type.

The plan asks these questions of a committed schema, the job of the fields themselves.

A type is a small JSON value (a spec), so that it can be committed: "int", "float", "bool", "str", "path", "dtype",
"none", "any", "section" (has keys of its own), "fixed" (no text can stand for it), {"literal": [...]},
{"enum": {NAME: VALUE}}, {"list": SPEC}, {"tuple": [SPEC, ...]}, {"dict": SPEC}; a JSON list of specs means any of them.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from launcher.contract.frozen import dataclass
from launcher.contract.patterns import later

INTERPOLATION = "${"
"""The mark of an interpolation. Only the job knows what it becomes, so its type is not checked before."""

# What Hydra's grammar reads as one token (or as one plain word) and that surely means the same here. Anything else is
# Hydra's business; loading its parser costs more than the rest of a plan, so the simple cases do without it.
_SIMPLE = later(
    r"(?P<key>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)="
    r"(?:(?P<int>[+-]?(?:0|[1-9][0-9]{0,17}))"
    r"|(?P<float>[+-]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18}(?:[eE][+-]?[0-9]{1,3})?|[eE][+-]?[0-9]{1,3}))"
    r"|(?P<word>[A-Za-z_/][A-Za-z0-9_/.-]*))"
)
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "inf": float("inf"), "nan": float("nan")}
_ATOMS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("an integer", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("a string", (str,)),
    "path": ("a path", (str,)),
    "dtype": ("a data type such as bf16 or fp32", (str,)),
    "none": ("null", (type(None),)),
    "any": ("any value", (int, float, bool, str, list, dict, type(None))),
    "section": ("a set of keys {...}", (dict,)),
    "fixed": ("an object that only a recipe can give", ()),
}
_QUOTED = later(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_DEEPEST = 32
_MOST_ITEMS = 2000
"""Hydra's parser reads about 5,000 items of a list in a second."""
_SHOWN = 16
"""So many names of a list are in a message."""
_DTYPES = frozenset(
    ("fp32", "float32", "fp16", "float16", "bf16", "bfloat16", "fp8", "float8_e4m3fn", "float8_e5m2", "float64")
)


class Refused(ValueError):  # noqa: N818 - what was done to the text, not a defect
    """An override that cannot be taken: `message` is one sentence, `hint` what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Override:
    """One override: its dotted key, its value as Hydra reads it, and its text as the user wrote it.

    A value with an interpolation (`${oc.env:HOME}`) is its text: what it becomes is known in the job.
    """

    key: str
    value: Any
    text: str

    @property
    def assignment(self) -> str:
        """Return the text without a leading `+` or `++`."""
        return self.text.lstrip("+")


def parse(text: str) -> Override:
    """Read one `key=value`.

    Raises Refused for a text that is not an override, and for what one run cannot take (sweeps, deletions).
    """
    simple = _SIMPLE.fullmatch(text)
    if simple is None:
        parsed = _parse_by_hydra(text)
        if parsed.value == "???":
            raise Refused(f"{text!r} says that the value is missing: Hydra reads ??? so")
        return parsed
    if simple["int"] is not None:
        return Override(simple["key"], int(simple["int"]), text)
    if simple["float"] is not None:
        return Override(simple["key"], float(simple["float"]), text)
    word = simple["word"]
    return Override(simple["key"], _WORDS.get(word.lower(), word), text)


def _parse_by_hydra(text: str) -> Override:
    key, equals, raw = text.partition("=")
    if not equals and not text.startswith("~"):
        raise Refused(f"{text!r} is not of the form KEY=VALUE")
    _check_size(key, raw)
    from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions

    functions = create_functions()
    del functions.functions["shuffle"]  # another order in each process
    try:
        override = OverridesParser(functions).parse_override(text)
        value = override.value()
    except Exception as error:  # Hydra's own, but also what int(), decimal and the recursion limit raise
        line = str(error).strip().partition("\n")[0]
        raise Refused(f"Hydra's grammar does not read {text!r}: {line}", _quote_hint(key, raw)) from None
    if override.is_delete():
        raise Refused(
            f"{text!r} would delete a key, and a configuration keeps all its keys", "use KEY=null to unset it"
        )
    name = override.key_or_group
    if override.package is not None or "/" in name or not name:
        raise Refused(f"the key of {text!r} is not a dotted name such as train.train_iters")
    if not _is_plain(value):
        raise Refused(f"{text!r} is a sweep over several values, and one run takes one", _sweep_hint(name, raw))
    return Override(name, value, text)


def _check_size(key: str, raw: str) -> None:
    """Raise Refused for a value that Hydra's parser would take long to read, or could not read at all."""
    depth = deepest = 0
    for sign in _QUOTED.sub("", raw):
        depth += (sign in "[{(") - (sign in "]})")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise Refused(f"the value of {key} is nested {deepest} deep; at most {_DEEPEST} can be read")
    if (items := raw.count(",") + 1) > _MOST_ITEMS:
        raise Refused(f"the value of {key} has {items} items; at most {_MOST_ITEMS} can be read")


def refuse_bare_none(override: Override, spec: Any) -> None:
    """Raise Refused for `KEY=None` where the key takes text or null: Hydra reads it as the text "None"."""
    raw = override.text.partition("=")[2].strip()
    options = spec if isinstance(spec, list) else [spec]
    plain = {one for one in options if isinstance(one, str)}
    if raw.lower() != "none" or not plain & {"str", "path", "none", "any"}:
        return
    if any(isinstance(one, dict) and fits(override.value, one) for one in options):
        return
    hint = f"write {override.key}=null"
    if plain & {"str", "path", "any"}:
        hint += f""" for no value; for the text: '{override.key}="{raw}"'"""
    raise Refused(f"{override.key}={raw} would be the text {raw!r}", hint)


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))


def _quote_hint(key: str, raw: str) -> str | None:
    return None if '"' in raw or "'" in raw or not raw else f"""if the value is text, quote it: '{key}="{raw}"'"""


def _sweep_hint(key: str, raw: str) -> str:
    return f"""for a list write '{key}=[{raw}]', for text '{key}="{raw}"'""" if "(" not in raw else "give one value"


def fits(value: object, spec: Any) -> bool:
    """Return whether `value`, as Hydra reads it, fits a field of type `spec`. A bool is neither an int nor a float."""
    if isinstance(value, str) and INTERPOLATION in value:
        return True
    if isinstance(spec, list):
        return any(fits(value, one) for one in spec)
    if isinstance(spec, str):
        return type(value) in _ATOMS[spec][1] and (spec != "dtype" or str(value).removeprefix("torch.") in _DTYPES)
    kind, inner = next(iter(spec.items()))
    if kind == "literal":
        return any(type(value) is type(one) and value == one for one in inner)
    if kind == "enum":
        return (isinstance(value, str) and value in inner) or any(
            type(value) is type(one) and value == one for one in inner.values()
        )
    if kind == "dict":
        return isinstance(value, dict) and all(isinstance(k, str) and fits(v, inner) for k, v in value.items())
    if not isinstance(value, list):
        return False
    if kind == "list":
        return all(fits(one, inner) for one in value)
    return len(value) == len(inner) and all(map(fits, value, inner))


def describe(spec: Any) -> str:
    """Return a description of the values of this type: "an integer or null"."""
    if isinstance(spec, list):
        return " or ".join(describe(one) for one in spec)
    if isinstance(spec, str):
        return _ATOMS[spec][0]
    kind, inner = next(iter(spec.items()))
    if kind in ("literal", "enum"):
        names = [str(one) for one in inner]
        shown = [*names[:_SHOWN], f"... ({len(names)} in all)"] if len(names) > _SHOWN else names
        return names[0] if len(names) == 1 else f"one of {', '.join(shown)}"
    if kind == "dict":
        return "a mapping {name: value}" if inner == "any" else f"a mapping, each value {describe(inner)}"
    if kind == "tuple":
        return f"a list of {len(inner)}: {', '.join(describe(one) for one in inner)}"
    return "a list" if inner == "any" else f"a list, each {describe(inner)}"


def check(key: str, value: object, spec: Any) -> None:
    """Raise Refused unless `value` fits `spec`; the hint is the nearest text that would."""
    if not fits(value, spec):
        raise Refused(f"{key} takes {describe(spec)}, not {show(value)}", _value_hint(key, value, spec))


def show(value: object) -> str:
    """Return a value as messages name it, with the name of its type where the text alone would mislead."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, float):
        return f"the float {value!r}"
    return f"the string {value!r}" if isinstance(value, str) else repr(value)


def text_of(value: Any) -> str:
    """Return a value as an override states it; texts that would be read as something else are quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text_of(each)}" for key, each in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value)
    plain = value and all(sign.isalnum() or sign in "_-./:@" for sign in value) and not _is_number(value)
    return value if plain and value.lower() not in ("null", "true", "false", "none") else json.dumps(value)


def _is_number(text: str) -> bool:
    """Return whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value_hint(key: str, value: object, spec: Any) -> str | None:
    options = spec if isinstance(spec, list) else [spec]
    if isinstance(value, float) and "int" in options and value == value and abs(value) < 1e18 and value == int(value):
        return f"write {key}={int(value)}"
    if "bool" in options and str(value).lower() in ("0", "1", "yes", "no", "on", "off"):
        return f"write {key}={'true' if str(value).lower() in ('1', 'yes', 'on') else 'false'}"
    if isinstance(value, (bool, int, float)) and ("str" in options or "path" in options):
        return f"""quote it: '{key}="{value}"'"""
    names = [str(one) for option in options if isinstance(option, dict) for one in _names(option)]
    near = nearest(str(value), names, count=1)
    if near:
        return f"write {key}={near[0]}"
    lists = [option for option in options if isinstance(option, dict) and "list" in option]
    if lists and fits([value], lists[0]):
        return f"write '{key}=[{value}]'"
    return None


def _names(option: dict[str, Any]) -> Iterable[Any]:
    return option.get("literal") or option.get("enum") or ()


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Up to `count` known names like `name`, best first; the same last part in another section is a good match."""
    import difflib

    known = sorted({one for one in known if "." in one or "." not in name})
    last = name.rpartition(".")[2]
    same = [one for one in known if "." in one and one.rpartition(".")[2] == last]
    near = [*same[:count], *difflib.get_close_matches(name, known, n=count, cutoff=0.6)]
    return list(dict.fromkeys(near))[:count]
