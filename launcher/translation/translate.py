"""Translating command lines of Megatron-LM into overrides of Megatron Bridge, and back."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.contract import values as hydra
from launcher.translation import special
from launcher.translation.table import Argument, ArgumentTable, Given, TranslationRule, load_table

Outcome = Literal["translated", "default", "none", "unknown"]
"""Said otherwise; so anyway; without a counterpart, with a reason; not an argument or key of the installed releases."""


@dataclass(frozen=True)
class Item:
    """What became of one argument or override."""

    text: str
    outcome: Outcome
    said: tuple[str, ...] = ()
    """The overrides, or words of a command line, that say it."""
    reason: str | None = None
    """Of an outcome `none`: the reason, of the table's closed list."""
    why: str | None = None


@dataclass(frozen=True)
class Translation:
    """A whole command line, translated."""

    items: tuple[Item, ...]
    defaults: tuple[Item, ...] = ()
    """What the side that is left decides by default and the other side otherwise: needed for the same training."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """To Bridge: the values by key."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the translation: overrides of Bridge, or a command line of Megatron-LM."""
        return tuple(word for item in (*self.defaults, *self.items) for word in item.said)

    @property
    def complete(self) -> bool:
        """Return whether everything that the user gave is said on the other side."""
        return all(item.outcome in ("translated", "default") or item.reason == "no effect" for item in self.items)


def to_bridge(words: Sequence[str], *, defaults: bool = True) -> Translation:
    """Translate a command line of Megatron-LM into overrides on top of Bridge's plain GPT recipe.

    With `defaults` those values are set, too, that Megatron-LM has by default and the recipe otherwise. Raises
    RequestError for a value that an argument does not take.
    """
    table = load_table()
    given = table.read(words)
    last = {one.argument.name: one for one in given if one.argument}
    stated = {name: one.value for name, one in last.items()}
    values = special.effective({**table.defaults(), **stated})
    items: list[Item] = []
    found: dict[str, Any] = {}
    for one in given:
        if one.argument and one is not last[one.argument.name]:
            items.append(Item(one.text, "none", reason="no effect", why="it is given again later"))
            continue
        item, keys = _argument_item(table, one, values)
        items.append(item)
        found.update(keys)
    added = tuple(_bridge_defaults(table, stated, values, found)) if defaults else ()
    return Translation(tuple(items), added, found)


def _argument_item(table: ArgumentTable, given: Given, values: Mapping[str, Any]) -> tuple[Item, dict[str, Any]]:
    argument = given.argument
    if argument is None:
        near = table.near(given.text.split("=")[0].split()[0])
        why = f"Megatron-LM {table.core} has no such argument{f'; did you mean {near}?' if near else ''}"
        return Item(given.text, "unknown", why=why), {}
    computed = _computed(argument.row(values), argument, given.value, values)
    if computed.none:
        return Item(given.text, "none", reason=computed.none, why=computed.why or table.reasons[computed.none]), {}
    if computed.always or not computed.keys:
        return Item(given.text, "default", why=computed.always or "it is so by default on both sides"), {}
    keys = dict(computed.keys)
    return Item(given.text, "translated", tuple(override_text(key, value) for key, value in keys.items())), keys


def _computed(row: TranslationRule, argument: Argument, value: Any, values: Mapping[str, Any]) -> special.Computed:
    """Return what a value of an argument becomes by a row."""
    if row.special:
        return special.FUNCTIONS[row.special](values, argument.name)
    if row.none or row.always:
        return special.Computed(always=row.always, none=row.none, why=row.why)
    if row.values:
        return special.Computed(tuple(row.values.get(str(value).lower(), {}).items()))
    if not (values["bf16"] or values["fp16"]) and any(key.startswith("mixed_precision.") for key in row.keys):
        return special.Computed(none="no effect", why="it counts only with --bf16 or --fp16")
    return special.Computed(tuple((key, not value if row.invert else value) for key in row.keys))


def _bridge_defaults(
    table: ArgumentTable, stated: Mapping[str, Any], values: Mapping[str, Any], found: Mapping[str, Any]
) -> Iterator[Item]:
    """Yield what Megatron-LM has by default, or computes, where the recipe has something else."""
    if "mixed_precision" not in found:
        yield Item("fp32", "translated", ("mixed_precision=null", "optimizer.bf16=false"))
    if "mixed_precision.fp8" in found and "fp8_recipe" not in stated:
        yield Item(
            "--fp8-recipe delayed", "translated", ("mixed_precision=bf16_mixed", "mixed_precision.fp8_recipe=delayed")
        )
    for argument in table.arguments.values():
        row = argument.row(values)
        value = values[argument.name]
        if argument.name in stated or value is None or row.special or row.values or row.none or not row.back:
            continue
        said = [
            override_text(key, wanted)
            for key, wanted in _computed(row, argument, value, values).keys
            if key not in found and _differs(table, key, wanted, stated)
        ]
        if said:
            words = argument.words(value)
            yield Item(" ".join(words) if words else f"{argument.name} = {value}", "translated", tuple(said))


def _differs(table: ArgumentTable, key: str, wanted: Any, stated: Mapping[str, Any]) -> bool:
    if table.is_kept(key) and not (key == "dataset.split" and "data_path" in stated):
        return False
    if (other := table.only_with.get(key)) and other not in stated:
        return False
    return key in table.recipe and table.recipe[key] != wanted


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """Return what a command line of Megatron-LM decides, its defaults included, by Bridge's keys."""
    table = load_table()
    stated = {one.argument.name: one.value for one in table.read(words) if one.argument}
    values = special.effective({**table.defaults(), **stated})
    found: dict[str, Any] = {}
    for argument in table.arguments.values():
        value = values[argument.name]
        if argument.name not in stated and (value is None or argument.rows[0].special or not argument.rows[0].back):
            continue
        found.update(_computed(argument.row(values), argument, value, values).keys)
    return {**found, "train.global_batch_size": found.get("train.global_batch_size")}


# ---- back


def to_mlm(overrides: Sequence[str], *, base: Mapping[str, Any] | None = None, defaults: bool = True) -> Translation:
    """Translate overrides of Bridge into a command line of Megatron-LM.

    `base` has the values of the recipe, by key; without it those of Bridge's plain GPT recipe count. With `defaults`
    the command line has what the recipe decides otherwise than Megatron-LM's defaults, too, and what Megatron-LM
    requires. Raises Refused for an override that cannot be read.
    """
    table = load_table()
    parsed = [hydra.parse(text) for text in overrides]
    stated = dict(_spelled_out(table, parsed))
    recipe = {**table.recipe, **(base or {})}
    back = _Back(table, stated, recipe)
    items = tuple(back.item(one) for one in parsed)
    return Translation(items, tuple(back.defaults(parsed)) if defaults else (), stated)


def _spelled_out(table: ArgumentTable, parsed: Iterable[hydra.Override]) -> Iterator[tuple[str, Any]]:
    """Yield the keys with their values, a name of a mixed precision as what it stands for."""
    for one in parsed:
        name = str(one.value).replace("-", "_")
        if one.key == "mixed_precision" and name in table.precisions:
            yield "mixed_precision", "fp16_mixed" if name.startswith("fp16") else "bf16_mixed"
            yield from ((f"mixed_precision.{key}", value) for key, value in table.precisions[name].items())
        else:
            yield one.key, one.value


class _Back:
    """One translation to Megatron-LM: what was stated, what the recipe has, and what has been said so far."""

    def __init__(self, table: ArgumentTable, stated: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        self.table = table
        self.stated = stated
        self.all = {**recipe, **stated}
        self.said: set[str] = set()
        activation = (self.all.get("model.activation_func"), bool(self.all.get("model.gated_linear_unit")))
        self.flag = next((name for name, pair in special.ACTIVATIONS.items() if pair == activation), None)
        self.activation_known = self.flag is not None or activation in ((None, False), ("gelu", False))
        self.values = table.defaults() | {
            "swiglu": self.flag == "swiglu",
            "multi_latent_attention": bool(self.all.get("model.multi_latent_attention")),
            "weight_decay_incr_style": self.all.get("scheduler.weight_decay_incr_style", "constant"),
            "transformer_impl": self.all.get("model.transformer_impl", "transformer_engine"),
        }

    def item(self, override: hydra.Override) -> Item:
        """Return what an override becomes."""
        key = override.key
        if key == "mixed_precision" and override.value is not None:
            words = [word for one in self._of_precision() for word in one]
            return Item(override.text, "translated", tuple(words))
        if key not in self.table.by_key and key != "mixed_precision":
            return self._without_argument(override)
        return self._key_item(key, override.text)

    def _of_precision(self) -> Iterator[list[str]]:
        yield [f"--{str(self.stated['mixed_precision']).partition('_')[0]}"]
        for key, value in self.stated.items():
            if key.startswith("mixed_precision.") and key in self.table.by_key:
                yield from [list(self._key_item(key, f"{key}={value}").said)]

    def _without_argument(self, override: hydra.Override) -> Item:
        key = override.key
        reason = self.table.keys.get(key)
        if reason is None:
            near = next(iter(hydra.nearest(key, (*self.table.by_key, *self.table.keys), count=1)), None)
            why = f"Megatron Bridge {self.table.bridge} has no such key{f'; did you mean {near}?' if near else ''}"
            return Item(override.text, "unknown", why=why)
        if key in ("optimizer.bf16", "optimizer.fp16", "model.bf16", "model.fp16", "model.params_dtype"):
            return Item(override.text, "default", why="it follows --bf16 and --fp16")
        if key == "optimizer.weight_decay":
            why = "the scheduler overwrites it in each step: scheduler.start_weight_decay and end_weight_decay count"
            return Item(override.text, "none", reason="overwritten", why=why)
        return Item(override.text, "none", reason=reason, why=self.table.key_reasons[reason])

    def _key_item(self, key: str, text: str) -> Item:
        if found := self._special(key, text):
            return found
        argument = self._argument(key)
        row = argument.row(self.values)
        keys = _keys_with(row, key)
        if argument.name in self.said:
            return Item(text, "default", why=f"{next(iter(argument.options))} says it already")
        values = [self.all.get(one) for one in keys]
        if any(one != values[0] for one in values):
            why = f"{' and '.join(keys)} differ, and Megatron-LM has {next(iter(argument.options))} for both"
            return Item(text, "none", reason="differs", why=why)
        self.said.add(argument.name)
        return _item_of(argument, _argument_value(row, values[0]), text)

    def _argument(self, key: str) -> Argument:
        """Return the argument that says a key: the one whose row holds now, one of the same name first."""
        candidates = self.table.by_key[key]
        holding = [
            one for one in candidates if key in _keys_with(one.row(self.values), key) and one.row(self.values).back
        ]
        ordered = sorted(
            holding or candidates,
            key=lambda one: (bool(one.row(self.values).values), one.name != key.partition(".")[2]),
        )
        return ordered[0]

    def _special(self, key: str, text: str) -> Item | None:
        if key == "mixed_precision":
            return Item(text, "default", why="Megatron-LM computes in fp32 without --bf16")
        if key in ("model.activation_func", "model.gated_linear_unit"):
            return self._once(
                "activation", text, [f"--{self.flag.replace('_', '-')}"] if self.flag else [], self.activation_known
            )
        if key == "model.num_query_groups":
            groups = self.all[key]
            words = [] if groups is None else ["--group-query-attention", "--num-query-groups", str(groups)]
            return self._once("groups", text, words)
        if key in ("model.seq_length", "dataset.seq_length"):
            length = str(self.all[key])
            same = self.all["model.seq_length"] == self.all["dataset.seq_length"]
            more = [] if self.values["multi_latent_attention"] else ["--max-position-embeddings", length]
            return self._once("length", text, ["--seq-length", length, *more], same)
        if key == "dataset.blend_per_split":
            options = ("--train-data-path", "--valid-data-path", "--test-data-path")
            blends = zip(options, self.all[key] or (), strict=False)
            return self._once(
                "blends", text, [word for option, one in blends if one for word in (option, *_blend(one))]
            )
        return None

    def _once(self, name: str, text: str, words: list[str], known: bool = True) -> Item:
        if name in self.said:
            return Item(text, "default", why="it is said already")
        self.said.add(name)
        if not known:
            why = "Megatron-LM has one argument for what these keys set differently, or none for this value"
            return Item(text, "none", reason="differs", why=why)
        if not words:
            return Item(text, "default", why="Megatron-LM does so by default")
        return Item(text, "translated", tuple(words))

    def defaults(self, parsed: Sequence[hydra.Override]) -> Iterator[Item]:
        """Yield what Megatron-LM requires, and what the recipe decides otherwise than Megatron-LM's defaults."""
        given = {one.key for one in parsed}
        if "mixed_precision" not in given and isinstance(self.all.get("mixed_precision", "bf16_mixed"), str):
            yield Item("mixed_precision=bf16_mixed", "translated", ("--bf16",))
        if not any(self.all.get(f"dataset.{name}") for name in ("data_path", "blend_per_split", "blend")):
            yield Item("no data set is named", "translated", ("--mock-data",))
        for key, value in self.all.items():
            if key in self.stated or key not in self.table.by_key or value is None:
                continue
            text = f"{key}={value}"
            if key in REQUIRED and value not in (0, "") and (found := self._key_item(key, text)).said:
                yield found
            elif not self.table.is_kept(key) and key not in REQUIRED and self.table.only_with.get(key) is None:
                yield from self._recipes_own(key, text)

    def _recipes_own(self, key: str, text: str) -> Iterator[Item]:
        argument = self._argument(key)
        row = argument.row(self.values)
        if argument.name in self.said or row.special or row.values or row.none or row.always:
            return
        if _argument_value(row, self.all[key]) != argument.default and (found := self._key_item(key, text)).said:
            yield found


REQUIRED = (
    *(
        "model.num_layers",
        "model.hidden_size",
        "model.num_attention_heads",
        "model.seq_length",
        "train.micro_batch_size",
    ),
    *(
        "train.global_batch_size",
        "train.train_iters",
        "optimizer.lr",
        "tokenizer.tokenizer_type",
        "tokenizer.vocab_size",
    ),
    *("validation.eval_iters", "validation.eval_interval", "rng.seed"),
)
"""What a command line of Megatron-LM needs, or what else decides about the samples of a run."""


def _keys_with(row: TranslationRule, key: str) -> tuple[str, ...]:
    if row.values:
        return tuple(one for some in row.values.values() for one in some if one == key)
    return row.keys


def _argument_value(row: TranslationRule, value: Any) -> Any:
    """Return the argument's value that makes a key's."""
    for name, keys in row.values.items():
        if value in keys.values():
            return {"true": True, "false": False}.get(name, name)
    if row.values:
        return False
    return not value if row.invert else value


def _item_of(argument: Argument, value: Any, text: str) -> Item:
    words = argument.words(value)
    if words is None:
        why = f"Megatron-LM has no option that sets {argument.name} to {hydra.show(value)}"
        return Item(text, "none", reason="differs", why=why)
    if not words:
        return Item(text, "default", why="Megatron-LM does so by default")
    return Item(text, "translated", tuple(words))


def _blend(blend: Sequence[Any]) -> list[str]:
    paths, weights = blend
    if weights is None:
        return [str(one) for one in paths]
    return [word for weight, path in zip(weights, paths, strict=True) for word in (repr(float(weight)), str(path))]


# ---- texts


def override_text(key: str, value: Any) -> str:
    """Return `key=value` in Hydra's grammar, so that it is read as this very value."""
    return f"{key}={_hydra(value)}"


_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")
_RESERVED = frozenset(("true", "false", "null", "none", "inf", "nan", "yes", "no", "on", "off"))


def _hydra(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_hydra(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(one)}" for key, one in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    if _BARE.fullmatch(value) and value.lower() not in _RESERVED:
        return str(value)
    # In Hydra's grammar a quoted value ends at its quote unless a backslash stands before it.
    return "'" + re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"
