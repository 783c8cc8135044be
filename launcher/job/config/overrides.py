"""`key=value` onto a Bridge configuration, through Bridge's own functions, with nothing accepted or dropped in silence.

Bridge (megatron/bridge/training/utils/omegaconf_utils.py, the same public functions since 0.3.1) parses Hydra's grammar
and resolves interpolations, but stores whatever it gets: a string for a number, a mapping for a section, an unknown key
as a warning in a log. So each override is first placed (does the key exist, is its section there), then Bridge's
functions give the value, then the value is checked against the field's type. Only what the user named is written back:
Bridge's way of writing everything back turns the recipe's tuples into lists.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ...contract import key_aliases, values
from ...contract.overrides import from_record
from ...contract.records.request import OverrideRecord
from ..errors import UserError
from . import annotations, notes, sections


@dataclass(frozen=True)
class _Override:
    """One override of the user and its position from 1."""

    number: int
    parsed: values.Override

    @property
    def where(self) -> str:
        return _where(self.number, self.parsed.text)


@dataclass(frozen=True)
class _Leaf:
    """A field that is to be set: its path in the configuration, the section that has it, the override that says so."""

    path: tuple[str, ...]
    section: Any
    override: _Override

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def name(self) -> str:
        return self.path[-1]


def read(records: Sequence[OverrideRecord]) -> tuple[values.Override, ...]:
    """Return the overrides of argv.json. Raises UserError for one that cannot be read."""
    found = []
    for number, record in enumerate(records, 1):
        try:
            found.append(from_record(record))
        except values.Refused as error:
            raise UserError(error.message, where=_where(number, record["text"]), hint=error.hint) from None
    return tuple(found)


def apply(config: Any, overrides: Sequence[values.Override]) -> Any:
    """Set each `key=value`, in the user's order, on `config` (changed in place and returned).

    Raises UserError with one sentence for the first override that cannot be taken; `where` names it.
    """
    given = {override.key for override in overrides}
    parsed = [_Override(number, _in_this_release(config, each, given)) for number, each in enumerate(overrides, 1)]
    placement = _Placement(config, parsed)
    leaves: dict[str, _Leaf] = {}
    texts: list[str] = []
    for override in parsed:
        with _Blame(override):
            placed = placement.place(override)
            leaves.update((leaf.key, leaf) for leaf in placed)
            texts += [f"++{override.parsed.assignment}"] if placed else []
    if leaves:
        _write(config, leaves, _resolved(config, texts, leaves))
    return config


def _in_this_release(config: Any, override: values.Override, given: Collection[str]) -> values.Override:
    """Return the override under the name that this configuration has for it, with a note if that is another one.

    The launcher has renamed what its schema shows; here the recipe's own classes decide. Where `given`, the keys of all
    overrides, has both names, the key stays and is refused.
    """
    known = list(sections.keys(config))
    twin = None if override.key in known else key_aliases.other_name(override.key, known)
    if twin is None or twin in given:
        return override
    named = key_aliases.renamed(override, twin)
    notes.add(f"{override.text} is taken as {named.text}: this configuration calls {override.key} {twin}")
    return named


class _Blame:
    """Turns a Refused of one override into a UserError that names it."""

    def __init__(self, override: _Override) -> None:
        self.override = override

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, values.Refused):
            raise UserError(error.message, where=self.override.where, hint=error.hint) from error


def _where(number: int, text: str) -> str:
    return f"override {number}: {text if len(text) <= 200 else text[:200] + '...'}"


class _Placement:
    """Where the overrides belong in a configuration; a null section that has keys set below it is created."""

    def __init__(self, config: Any, every: Sequence[_Override]) -> None:
        self.config = config
        self.every = every

    def place(self, override: _Override) -> list[_Leaf]:
        """Return the fields that an override sets; none where it replaces a whole section, which is written at once."""
        path = tuple(override.parsed.key.split("."))
        section = self.config
        for depth in range(1, len(path)):
            here, below = path[:depth], path[depth:]
            self._require(section, here, override.parsed.key)
            if _holds_mapping(section, here[-1]):
                _check_entry(section, here, below, override.parsed.value)
                return [_Leaf(here, section, override)]
            section = self._enter(section, here)
        self._require(section, path, override.parsed.key)
        if "section" in _options(sections.spec(section, path[-1])):
            return self._place_section(section, path, override)
        return [_Leaf(path, section, override)]

    def _require(self, section: Any, path: tuple[str, ...], key: str) -> None:
        """Raise Refused unless the section has the field that `path` ends with; `key` is all that the user wrote."""
        name = path[-1]
        if name in sections.fields(section):
            return
        if annotations.COPIES.get(name) in sections.fields(section):
            twin = ".".join((*path[:-1], annotations.COPIES[name]))
            raise values.Refused(f"{key} is overwritten by {twin} before training: it changes nothing", f"set {twin}")
        if called := key_aliases.other_name(key, list(sections.keys(self.config))):
            text = f"{key} is not a key of this release of Megatron Bridge, which calls it {called}"
            raise values.Refused(text, f"set {called}")
        if hasattr(section, name):
            raise values.Refused(f"{key} is computed by {type(section).__name__} itself and is not the user's to set")
        near = values.nearest(key, sections.keys(self.config))
        place = f"{type(section).__name__} has no field {name!r}" if len(path) > 1 else "there is no such section"
        raise values.Refused(f"{key} is unknown: {place}", f"did you mean {', '.join(near)}?" if near else None)

    def _enter(self, section: Any, path: tuple[str, ...]) -> Any:
        """Return the section at `path`, created where it is null and keys below it are set."""
        name, key = path[-1], ".".join(path)
        held = getattr(section, name)
        if sections.is_section(held):
            return held
        if "section" not in _options(sections.spec(section, name)):
            if isinstance(held, (list, tuple)):
                raise values.Refused(f"{key} is a list, whose items have no keys", f"give it whole: '{key}=[...]'")
            raise values.Refused(f"{key} has no keys below it")
        made = sections.create(key, annotations.hints(type(section))[name], held, self._given(key))
        setattr(section, name, made)
        return made

    def _given(self, key: str) -> dict[str, Any]:
        """Return the values that all overrides together set directly below `key`."""
        given: dict[str, Any] = {}
        for override in self.every:
            parent, _, name = override.parsed.key.rpartition(".")
            if parent == key:
                given[name] = override.parsed.value
            if override.parsed.key == key and isinstance(override.parsed.value, dict):
                given.update(override.parsed.value)
        return given

    def _place_section(self, section: Any, path: tuple[str, ...], override: _Override) -> list[_Leaf]:
        """Set a section as a whole: null, a name, a mapping of some of its keys, or a mapping with its class."""
        name, key, value = path[-1], override.parsed.key, override.parsed.value
        before = [one for one in self.every[: override.number - 1] if one.parsed.key.startswith(f"{key}.")]
        if before and not (isinstance(value, dict) and "_target_" not in value):
            raise values.Refused(f"{key} is replaced as a whole after {before[0].parsed.text!r}", "give one of the two")
        values.check(key, value, sections.spec(section, name))
        if isinstance(value, str) and values.INTERPOLATION in value:
            return [_Leaf(path, section, override)]
        if not isinstance(value, dict):
            setattr(section, name, value)
            return []
        if "_target_" in value:
            setattr(section, name, sections.instantiate(key, annotations.hints(type(section))[name], value))
            return []
        inner = self._enter(section, path)
        leaves: list[_Leaf] = []
        for child, one in value.items():
            below = (*path, str(child))
            said = _Override(override.number, values.Override(".".join(below), one, override.parsed.text))
            self._require(inner, below, said.parsed.key)
            whole = isinstance(one, dict) and "section" in _options(sections.spec(inner, below[-1]))
            leaves += self._place_section(inner, below, said) if whole else [_Leaf(below, inner, said)]
        return leaves


def _options(spec: Any) -> list[Any]:
    return spec if isinstance(spec, list) else [spec]


def _holds_mapping(section: Any, name: str) -> bool:
    return isinstance(getattr(section, name), dict) or any(
        isinstance(option, dict) and "dict" in option for option in _options(sections.spec(section, name))
    )


def _check_entry(section: Any, path: tuple[str, ...], below: tuple[str, ...], value: Any) -> None:
    """Check a value for a mapping such as env_vars alone, so that a message does not repeat the other values."""
    for name in reversed(below):
        value = {name: value}
    values.check(".".join(path), value, sections.spec(section, path[-1]))


def _resolved(config: Any, texts: list[str], leaves: dict[str, _Leaf]) -> dict[str, Any]:
    """Return the plain value of each leaf, after Bridge's parser and OmegaConf's interpolation."""
    from megatron.bridge.training.utils import omegaconf_utils
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        conf, _ = omegaconf_utils.create_omegaconf_dict_config(config)
        conf = omegaconf_utils.parse_hydra_overrides(conf, texts)
    except (omegaconf_utils.OverridesError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"Megatron Bridge cannot apply the overrides: {_line(error)}") from error
    found: dict[str, Any] = {}
    for key, leaf in leaves.items():
        try:
            value = OmegaConf.select(conf, key)
            found[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            text = f"the value of {key} cannot be resolved: {_line(error)}"
            raise UserError(text, where=leaf.override.where) from error
    return found


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _write(config: Any, leaves: dict[str, _Leaf], found: dict[str, Any]) -> None:
    """Check each value against its field's type, let Bridge write them, and see that they have arrived."""
    from megatron.bridge.training.utils.omegaconf_utils import apply_overrides

    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        with _Blame(leaf.override):
            values.check(key, found[key], sections.spec(leaf.section, leaf.name))
        node = tree
        for name in leaf.path[:-1]:
            node = node.setdefault(name, {})
        try:
            found[key] = node[leaf.name] = annotations.coerce(
                found[key], annotations.hints(type(leaf.section))[leaf.name]
            )
        except ValueError as error:
            raise UserError(f"{key}: {error}", where=leaf.override.where) from error
    apply_overrides(config, tree, {})  # the third argument restores callables, and no callable was touched
    for key, leaf in leaves.items():
        held = getattr(leaf.section, leaf.name)
        if held != found[key] and leaf.name != "activation_func" and held == held:
            text = f"{key} stayed {values.show(held)} although {values.show(found[key])} was written to it"
            raise UserError(text, where=leaf.override.where)
