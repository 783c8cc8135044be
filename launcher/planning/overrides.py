"""The overrides of a request, checked against the keys and types of Megatron Bridge without importing it.

The schema (configs/schemas, made by tools/bridge_schema.py) knows all sections and the union of all models and
datasets. What only the recipe can tell, such as whether its model is one that has the key, the job checks again.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from launcher._util.errors import OverrideError
from launcher._util.resources import resource
from launcher.contract.frozen import dataclass
from launcher.contract.key_aliases import other_name, renamed
from launcher.contract.values import INTERPOLATION, Override, Refused, nearest, parse, refuse_bare_none
from launcher.contract.values import check as check_value

_PLACE = "configs/schemas"


@dataclass(frozen=True)
class Schema:
    """The keys of one release of Megatron Bridge with their types (see launcher/contract/values.py).

    `renamed` maps keys that Bridge overwrites to those that count.
    """

    version: str
    keys: Mapping[str, Any]
    renamed: Mapping[str, str]


def load_schema(version: str | None = None) -> Schema:
    """Return the committed schema of a release, by default of the newest that has one. Raises FileNotFoundError."""
    return _read_schema(resource(f"{_PLACE}/bridge-{version or _versions()[-1]}.json"))


@cache
def _read_schema(path: Path) -> Schema:
    """Return the schema in a file: many plans of one process need the same."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Schema(content["bridge"], content["keys"], content["renamed"])


def schema_of(release: str | None) -> Schema | None:
    """Return the schema for the release that a job will find; None where there is none, so that the job has to check.

    Unknown is taken for the newest. Releases that differ in the last number alone have the same keys.
    """
    if release in (None, "unknown"):
        return load_schema()
    wanted = str(release).partition("+")[0].split(".")
    found = [one for one in _versions() if one.split(".")[:2] == wanted[:2]]
    return load_schema(found[-1]) if found else None


def _versions() -> list[str]:
    names = (path.stem.removeprefix("bridge-") for path in resource(_PLACE).glob("bridge-*.json"))
    return sorted(names, key=lambda text: [int(part) for part in text.split(".") if part.isdigit()])


def parse_all(texts: Sequence[str]) -> tuple[Override, ...]:
    """Return the overrides that the texts mean. Raises OverrideError for the first that cannot be read."""
    parsed: list[Override] = []
    for number, text in enumerate(texts, 1):
        with _naming(number, text):
            parsed.append(parse(text))
    return tuple(parsed)


def translated(overrides: Sequence[Override], schema: Schema) -> tuple[tuple[Override, ...], tuple[str, ...]]:
    """Return the overrides under the names that this release has for them, and a note for each that was renamed.

    Renamed are keys of another release that have exactly one meaning here (contract/key_aliases.py). Raises
    OverrideError where both names are given.
    """
    given = {override.key: override.text for override in overrides}
    found: list[Override] = []
    notes: list[str] = []
    for number, override in enumerate(overrides, 1):
        key = override.key
        twin = schema.renamed.get(key) or (None if key in schema.keys else other_name(key, schema.keys))
        if twin is None:
            found.append(override)
            continue
        if twin in given:
            with _naming(number, override.text):
                text = f"{key} is called {twin} in Megatron Bridge {schema.version}, which {given[twin]} sets as well"
                raise Refused(text, "leave one of them out")
        found.append(renamed(override, twin))
        notes.append(
            f"{override.text} is taken as {found[-1].text}: Megatron Bridge {schema.version} calls {key} {twin}"
        )
    return tuple(found), tuple(notes)


def added_keys(overrides: Iterable[Override], schema: Schema) -> tuple[str, ...]:
    """Return the keys that `+` adds to those of Megatron Bridge: the recipe, or a plug-in of its, has to have them."""
    return tuple(one.key for one in overrides if one.text.startswith("+") and one.key not in schema.keys)


def check_keys(overrides: Sequence[Override], schema: Schema) -> None:
    """Check every override against the schema.

    Raises OverrideError for the first one that cannot work, with the nearest names or the text that would.
    """
    for number, override in enumerate(overrides, 1):
        with _naming(number, override.text):
            refuse_bare_none(override, schema.keys.get(override.key, "any"))
            _check_key(override.key, override.value, schema, added=override.text.startswith("+"))


def check(texts: Sequence[str], schema: Schema | None) -> tuple[Override, ...]:
    """Parse and check every override; without a schema (another program, an unknown release) only the grammar counts.

    Raises OverrideError.
    """
    overrides = parse_all(texts)
    if schema is not None:
        check_keys(overrides, schema)
    return overrides


@contextlib.contextmanager
def _naming(number: int, text: str) -> Iterator[None]:
    """Turn a Refused of the override `text` into an OverrideError that names it."""
    try:
        yield
    except Refused as error:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise OverrideError(error.message, where=f"override {number}: {shown}", hint=error.hint) from None


def known_values(overrides: Iterable[Override]) -> dict[str, Any]:
    """Return the values of all overrides by key, without those that only the job knows (interpolations)."""
    overrides = tuple(overrides)
    found = {override.key: override.value for override in overrides}
    return {key: one for key, one in found.items() if not (isinstance(one, str) and INTERPOLATION in one)}


def _check_key(key: str, value: Any, schema: Schema, *, added: bool) -> None:
    if key in schema.renamed:
        twin = schema.renamed[key]
        raise Refused(
            f"Megatron Bridge {schema.version} overwrites {key} with {twin}: it changes nothing", f"set {twin}"
        )
    if key in schema.keys:
        _check_known(key, value, schema, added=added)
        return
    parent, _, name = key.rpartition(".")
    while parent and parent not in schema.keys:
        parent, _, above = parent.rpartition(".")
        name = f"{above}.{name}"
    options = _options(schema.keys.get(parent))
    if any(isinstance(option, dict) and "dict" in option for option in options):
        for part in reversed(name.split(".")):
            value = {part: value}
        check_value(parent, value, schema.keys[parent])
    elif any(isinstance(option, dict) and "list" in option for option in options):
        raise Refused(f"{parent} is a list, whose items have no keys", f"give it whole: '{parent}=[...]'")
    elif parent and "section" not in options:
        raise Refused(f"{parent} has no keys below it")
    elif not (added and parent):
        raise _unknown(key, schema)


def _check_known(key: str, value: Any, schema: Schema, *, added: bool) -> None:
    check_value(key, value, schema.keys[key])
    if isinstance(value, dict) and "section" in _options(schema.keys[key]) and "_target_" not in value:
        for child, one in value.items():
            _check_key(f"{key}.{child}", one, schema, added=added)


def _unknown(key: str, schema: Schema) -> Refused:
    if twin := other_name(key, schema.keys):
        return Refused(f"{key} is not a key of Megatron Bridge {schema.version}, which calls it {twin}", f"set {twin}")
    near = nearest(key, schema.keys)
    hints = [f"did you mean {', '.join(near)}?"] if near else []
    if key.partition(".")[0] in schema.keys and "." in key:
        hints.append(f"if a class of the recipe itself or a plug-in has it, write +{key}=...")
    return Refused(f"{key} is not a key of Megatron Bridge {schema.version}", "; ".join(hints) or None)


def _options(spec: Any) -> list[Any]:
    return spec if isinstance(spec, list) else [spec]
