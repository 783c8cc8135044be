"""The recipe of Megatron Bridge that cmd_args name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher._util.errors import ConfigError
from launcher.cloudai.cmd_args import MegatronBridgeCmdArgs, Note
from launcher.contract.values import nearest
from launcher.discovery.recipe_index import Index

DEFAULT_GPUS: Mapping[tuple[str, str], Mapping[str, int]] = {
    ("llama3_8b", "b200"): {"bf16": 8, "fp8cs": 8},
    ("llama3_8b", "gb200"): {"bf16": 8, "fp8cs": 8},
    ("llama3_8b", "gb300"): {"bf16": 8, "fp8cs": 8, "fp8mx": 8, "nvfp4": 8},
    ("llama3_8b", "h100"): {"bf16": 8, "fp8cs": 8},
    ("nemotronh_56b", "b200"): {"fp8cs": 64},
    ("nemotronh_56b", "gb300"): {"fp8cs": 64},
    ("qwen3_30b_a3b", "b200"): {"bf16": 8, "fp8cs": 8},
    ("qwen3_30b_a3b", "gb200"): {"bf16": 8, "fp8cs": 8},
    ("qwen3_30b_a3b", "gb300"): {"bf16": 8, "fp8cs": 8},
    ("qwen3_30b_a3b", "h100"): {"bf16": 16, "fp8cs": 16},
}
"""By recipe and GPU, then precision: for how many GPUs the recipe is that others are scaled from, where that is not the
largest. Pretraining only."""


@dataclass(frozen=True)
class ChosenRecipe:
    """The recipe that a test's fields name."""

    name: str
    values: Mapping[str, Any]
    """Its values by key of the configuration, as far as the index has them."""
    env: Mapping[str, str]
    gpus: int | None = None
    """For how many GPUs it was written, where that is not the test's number."""
    notes: tuple[Note, ...] = ()


def precision_of(compute_dtype: str) -> str:
    """Return a precision as names of recipes have it: fp8_mx is fp8mx."""
    return compute_dtype.lower().replace("_", "")


def task_of(task: str) -> str:
    """Return a task as Bridge 0.6 calls it: lora is peft."""
    return "peft" if task.lower() == "lora" else task.lower()


def recipe_of(args: MegatronBridgeCmdArgs, index: Index) -> ChosenRecipe:
    """Return the recipe that cmd_args name. Raises ConfigError with the nearest names where Bridge has none."""
    name = args.model_recipe_name
    if args.use_recipes:
        return _require(f"{name}_{task_of(args.task)}_config", index, args)
    wanted = recipe_name(args, args.num_gpus)
    if wanted in index.recipes:
        return _require(wanted, index, args)
    prefix, suffix = recipe_name(args, 0).split("_0gpu_")
    sizes = sorted(
        int(count)
        for found in index.recipes
        if found.startswith(f"{prefix}_") and found.endswith(f"gpu_{suffix}")
        if (count := found[len(prefix) + 1 : -len(suffix) - 4]).isdigit()
    )
    if not sizes:
        return _require(wanted, index, args)
    gpus = _default_gpus(args, sizes)
    found = recipe_name(args, gpus)
    text = f"Bridge has no recipe for {args.num_gpus} GPUs; {found} is used, and its batch scaled, as Bridge does"
    chosen = _require(found, index, args)
    return ChosenRecipe(chosen.name, chosen.values, chosen.env, gpus, (Note("cmd_args.num_gpus", text),))


def recipe_name(args: MegatronBridgeCmdArgs, gpus: int) -> str:
    """Return the name of a performance recipe for so many GPUs."""
    variant = (args.config_variant or "").lower()
    ending = "" if variant in ("", "v1", "v2") else f"_{variant}"
    precision = precision_of(args.compute_dtype)
    return f"{args.model_recipe_name}_{task_of(args.task)}_{gpus}gpu_{args.gpu_type.lower()}_{precision}{ending}_config"


def _default_gpus(args: MegatronBridgeCmdArgs, sizes: list[int]) -> int:
    of_gpu = DEFAULT_GPUS.get((args.model_recipe_name, args.gpu_type.lower()), {})
    default = of_gpu.get(precision_of(args.compute_dtype)) if task_of(args.task) == "pretrain" else None
    return default if default in sizes and (args.config_variant or "v1").lower() in ("v1", "v2") else sizes[-1]


def _require(name: str, index: Index, args: MegatronBridgeCmdArgs) -> ChosenRecipe:
    found = index.recipes.get(name)
    if found is None or found.elsewhere:
        begins = [each for each in index.recipes if each.startswith(f"{args.model_recipe_name}_{task_of(args.task)}_")]
        near = nearest(name, begins or index.recipes, count=4)
        raise ConfigError(
            f"Megatron Bridge {index.version} has no recipe {name}",
            where="cmd_args",
            hint=f"Its name comes from model_recipe_name, task, num_gpus, gpu_type, compute_dtype and config_variant. "
            f"Near it: {', '.join(near) or 'none'}.",
        )
    return ChosenRecipe(name, found.values, found.env or {})


def variants(args: MegatronBridgeCmdArgs, index: Index) -> list[str]:
    """Return the variants of a test's recipe, as config_variant names them; `v1` is the one without a suffix."""
    plain = recipe_name(args.model_copy(update={"config_variant": None}), args.num_gpus)
    stem = plain.removesuffix("_config")
    found = {name[len(stem) :].removesuffix("_config").strip("_") for name in index.recipes if name.startswith(stem)}
    return sorted(one or "v1" for one in found)
