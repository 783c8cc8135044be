"""Arguments that every recipe takes, applied to its function and its configuration.

The list is in contract/recipe_arguments.py. Their order of effect: what the function itself takes and `hf_path`,
keywords of older releases, `tokenizer` and `data`, `peft`; then the overrides, which win over all of them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ...contract import key_aliases, recipe_arguments, values
from ..data import datasets
from ..errors import UserError
from ..model import forward, hub
from . import legacy_kwargs, overrides, peft, sections, versions

_AS_TEXT = ("tokenizer_model", "dir", "name", "data_args_path", "per_split_data_args_path")
_LISTS = ("data_paths", "train_data_path", "valid_data_path", "test_data_path")


def prepared(function: Callable[..., Any], common: Mapping[str, str]) -> Callable[..., Any]:
    """Return `function` wrapped: called with its own keywords, it also gets what takes effect while it runs."""
    parameters = inspect.signature(function).parameters
    old = {name: text for name, text in common.items() if name in recipe_arguments.KEYWORDS}
    more: dict[str, Any] = {}
    if common.get("peft") in ("lora", "dora") and "peft_scheme" in parameters:
        more["peft_scheme"] = common["peft"]
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())

    def call(**given: Any) -> Any:
        if takes_all:
            return function(**{**more, **given}, **{name: _value(name, text) for name, text in old.items()})
        later = dict(old)
        model = {"hf_path": later.pop("hf_path")} if "hf_path" in later else {}
        config = (versions.with_old_keywords(function) if model else function)(**{**more, **given}, **model)
        if model and hub.overriding_model() is None:
            raise UserError(
                "hf_path= has no effect: this recipe does not build its model from a Hugging Face configuration",
                where=f"hf_path={model['hf_path']}",
                hint="use a recipe of that model, or set the fields that differ (model.num_layers=...)",
            )
        _set(config, later)
        return config

    return call if old or more else function


def apply(config: Any, common: Mapping[str, str], recipe: Mapping[str, str], where: str) -> None:
    """Set in `config`, which the function returned, what is not a keyword of the function. Raises UserError."""
    for name in recipe_arguments.EVERY:
        if name in common:
            try:
                recipe_arguments.check(name, common[name])
            except values.Refused as error:
                raise UserError(error.message, where=where, hint=error.hint) from None
    if "tokenizer" in common:
        datasets.use_tokenizer(config, common["tokenizer"])
    if "data" in common:
        datasets.use(config, common)
    elif "data_columns" in common:
        raise UserError("data_columns= has no effect without data=", where=where)
    if "forward_step" in common:
        forward.check_name(common["forward_step"])
    if "peft" in common:
        peft.use(config, common["peft"], recipe.get("bridge"), where)


def _set(config: Any, given: Mapping[str, str]) -> None:
    """Apply old keywords to a configuration; each value is checked against its field, as an override is."""
    meant: dict[str, Any] = {}
    for name, text in given.items():
        fields = recipe_arguments.FIELDS.get(name, ())
        if text == "null" or not fields:
            meant[name] = _value(name, text)
        for field in () if text == "null" else fields:
            section, _, attribute = _known(config, field).rpartition(".")
            try:
                key = f"{section}.{attribute}" if section else attribute
                overrides.apply(config, overrides.read([{"key": key, "text": f"{key}={text}"}]))
            except UserError as error:
                raise UserError(error.message, where=f"{name}={text}", hint=error.hint) from error
            meant[name] = getattr(getattr(config, section) if section else config, attribute)
    if meant:
        legacy_kwargs.apply(config, meant)


def _known(config: Any, field: str) -> str:
    """Return the name of a field in this release."""
    section, _, name = field.rpartition(".")
    owner = getattr(config, section, None)
    known = not section or (owner is not None and name in sections.fields(owner))
    return field if known else key_aliases.OLDER.get(field, field)


def _value(name: str, text: str) -> Any:
    if name in _AS_TEXT or name == "hf_path":
        return text
    try:
        value = values.parse(f"{name}={text}").value
    except values.Refused as error:
        raise UserError(error.message, where=f"{name}={text}", hint=error.hint) from None
    return [value] if name in _LISTS and isinstance(value, str) else value
