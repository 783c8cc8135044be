"""Facts that a plan takes from the recipe index; overrides and a checked configuration take precedence over them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.contract.values import Override
from launcher.discovery.recipe_index import SHIPPED, IndexedRecipe, IndexMatch
from launcher.discovery.training_files import TrainingFiles
from launcher.planning import layout
from launcher.planning.inputs import FromIndex, FromOverrides
from launcher.planning.overrides import known_values

_PRECISION = {"mixed_precision", "model.bf16", "model.fp16", "model.fp8", "model.fp4", "model.fp8_recipe"}
"""Overrides with which the recipe's precision is not the run's."""

_CHANGED_BY = {
    "hf_path": ("model.num_layers", "model.num_moe_experts", "model.seq_length"),
    "enable_deepep": ("model.moe_token_dispatcher_type", "model.moe_flex_dispatcher_backend"),
}
"""Values that arguments of every recipe of Megatron Bridge change, by the argument."""

_HARMLESS = {"peft_scheme": ("lora", "dora")}
"""Values of parameters of Megatron Bridge's functions that change nothing of the index: the kind of adapters.

Without adapters (`none`) some functions of 0.3.1 choose other parallel sizes.
"""

BATCH_KEY = "train.global_batch_size"


def knowledge_of(
    index_match: IndexMatch | None,
    overrides: Iterable[Override],
    arguments: Mapping[str, str],
    stated: Mapping[str, Any],
    files: TrainingFiles,
) -> FromIndex | FromOverrides:
    """Return the known facts about a recipe that was not run.

    `arguments` are those that it gets, `stated` the values by key that they are known to set.
    """
    overrides = tuple(overrides)
    if index_match is None:
        return FromOverrides(stated, files)
    if index_match.recipe is not None and _is_changed_by(index_match.recipe, arguments):
        index_match = dataclasses.replace(index_match, recipe=None)
    values = {**_values_of(index_match, overrides, frozenset(arguments)), **stated}
    values |= _expert_tensor_parallel(index_match.recipe, overrides, values)
    return FromIndex(index_match, values, _env_of(index_match, overrides), files)


def _values_of(index_match: IndexMatch, overrides: Iterable[Override], arguments: frozenset[str]) -> Mapping[str, Any]:
    """Return the recipe's values by key, without those that an argument changes or that an override replaces.

    A replaced one is unknown here even where its new value is known only in the job.
    """
    if index_match.recipe is None:
        return {}
    replaced = {override.key for override in overrides}
    replaced |= {key for key, names in index_match.recipe.altered_by.items() if arguments.intersection(names)}
    replaced |= {key for name in arguments for key in _CHANGED_BY.get(name, ())}
    values = dict(index_match.recipe.values)
    if index_match.recipe.mixed_precision and not replaced & _PRECISION:
        values["mixed_precision"] = index_match.recipe.mixed_precision
    return {key: value for key, value in values.items() if not {key, key.partition(".")[0]} & replaced}


def _expert_tensor_parallel(
    recipe: IndexedRecipe | None, overrides: Iterable[Override], values: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the tensor-parallel size of experts that a recipe leaves open: megatron-core makes it that of the rest.

    Source: core/model_parallel_config.py of megatron-core 0.19.2, __post_init__.
    """
    key, of_the_rest = layout.PARALLEL_KEYS["etp"], layout.PARALLEL_KEYS["tp"]
    if recipe is None or recipe.not_run is not None or key in values or key in recipe.altered_by:
        return {}
    keys = {override.key for override in overrides}
    size = {**values, **known_values(overrides)}.get(of_the_rest)
    return {} if keys & {key, "model"} or type(size) is not int else {key: size}


def _is_changed_by(recipe: IndexedRecipe, arguments: Mapping[str, str]) -> bool:
    """Return whether an argument may change anything that the index says.

    The files that ship were run with other arguments, so that it is known what each of them changes. A function of
    Megatron Bridge was run without any: what its own parameters do is not known.
    """
    own = {name: value for name, value in arguments.items() if name in recipe.parameters}
    return recipe.package != SHIPPED and any(value not in _HARMLESS.get(name, ()) for name, value in own.items())


def _env_of(index_match: IndexMatch, overrides: Iterable[Override]) -> Mapping[str, str] | None:
    """Return the recipe's env_vars with the changes of overrides; None if they are unknown."""
    overrides = tuple(overrides)
    if index_match.recipe is None or index_match.recipe.env is None:
        return None
    keys = {override.key for override in overrides}
    if "env_vars" in keys:
        return None
    found = dict(index_match.recipe.env)
    known = known_values(overrides)
    for key in sorted(key for key in keys if key.startswith("env_vars.")):
        name = key.removeprefix("env_vars.")
        found.pop(name, None)
        if known.get(key) is not None:
            found[name] = str(known[key])
    return found


def tokenizer(index_match: IndexMatch | None) -> dict[str, Any]:
    """Return, by key of the configuration, the tokenizer that the recipe itself takes from the hub."""
    if index_match is None or index_match.recipe is None or index_match.recipe.tokenizer is None:
        return {}
    return {
        "tokenizer.tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer.tokenizer_model": index_match.recipe.tokenizer,
    }


def unchecked(index_match: IndexMatch, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what only running the recipe can show, and what was taken from the index instead.

    `known` holds all known values by key.
    """
    missing = [key for key in layout.PARALLEL_KEYS.values() if key not in known]
    source = f"from the index of Megatron Bridge {index_match.version}"
    if index_match.recipe is not None and index_match.recipe.env is not None:
        believed = [f"the recipe's parallel sizes, batch sizes and env_vars: {source}"]
    else:
        believed = ["the recipe's env_vars: the recipe decides"]
    return (*believed, *(f"{key}: the recipe decides" for key in missing), "the recipe's own values")


def warnings(index_match: IndexMatch) -> tuple[str, ...]:
    """Return the warnings of the index about the recipe."""
    failed = index_match.recipe.not_run if index_match.recipe else None
    if index_match.recipe is None or failed is None:
        return index_match.warnings
    name = index_match.recipe.name
    text = f"when the index of Megatron Bridge {index_match.version} was made, {name}() failed: {failed}"
    return (*index_match.warnings, text)


def scaled_batch(index_match: IndexMatch, values: Mapping[str, Any], world_size: int) -> int | None:
    """Return the global batch that gives each GPU what the recipe gave it; None where it is unknown, or as it is."""
    recipe = index_match.recipe
    batch = values.get(BATCH_KEY)
    if recipe is None or recipe.gpus in (None, world_size) or type(batch) is not int:
        return None
    scaled, rest = divmod(batch * world_size, recipe.gpus or 1)
    return scaled if scaled and not rest else None


def scaling(index_match: IndexMatch, values: Mapping[str, Any], world_size: int) -> tuple[str, ...]:
    """Return a sentence where the recipe was written for another number of GPUs and keeps its global batch."""
    batch = scaled_batch(index_match, values, world_size)
    if batch is None or index_match.recipe is None:
        return ()
    text = (
        f"{index_match.recipe.name} was written for {index_match.recipe.gpus} GPUs, and its global batch stays "
        f"{values[BATCH_KEY]} on {world_size}: --scale-batch makes it {batch}"
    )
    return (text,)


def with_source(hint: str | None, index_match: IndexMatch) -> str | None:
    """Return the hint of an error about sizes, with the source of those that the user did not set."""
    if index_match.recipe is None:
        return hint
    source = (
        f"The sizes of {index_match.recipe.name} are known from the index of Megatron Bridge {index_match.version}."
    )
    return f"{hint} {source}" if hint else source
