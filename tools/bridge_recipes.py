#!/usr/bin/env python3
"""Write the index of Megatron Bridge's recipes to configs/bridge/recipes-<version>.json.

Every recipe that `bridge:NAME` takes is run once, on CPU and without network (tools/hub_standins.py answers for the
hub), and what it decided is noted: parallel sizes, batch sizes, precision, environment. What only the model's published
architecture says is not in the index, unless the recipe gives it. With --check nothing is written: a difference is
printed and the exit status is 1.
"""

import ast
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from launcher.discovery.recipe import BridgeRecipe  # noqa: E402 - likewise
from tools import committed, hub_standins  # noqa: E402 - from the checkout that this file lies in

KEYS = {
    "tp": "model.tensor_model_parallel_size",
    "pp": "model.pipeline_model_parallel_size",
    "vp": "model.virtual_pipeline_model_parallel_size",
    "cp": "model.context_parallel_size",
    "ep": "model.expert_model_parallel_size",
    "etp": "model.expert_tensor_parallel_size",
    "sp": "model.sequence_parallel",
    "mbs": "train.micro_batch_size",
    "gbs": "train.global_batch_size",
    "iters": "train.train_iters",
    "seq": "model.seq_length",
    "dispatcher": "model.moe_token_dispatcher_type",
    "backend": "model.moe_flex_dispatcher_backend",
    "deepep": "model.moe_enable_deepep",
    "layers": "model.num_layers",
    "experts": "model.num_moe_experts",
}
"""Short names of the file, with the keys of the configuration that they stand for."""
_DEFAULTS_COUNT = ("tp", "pp", "vp", "cp", "ep", "etp", "sp")
"""No published architecture says these: where the recipe does not, Bridge's own defaults hold."""
_RECIPE = re.compile(r"[a-z]\w*_config(_\w+)?")
_NAME = re.compile(
    r"(?P<model>\w+?)_(?P<task>pretrain|sft|peft|finetune)"
    r"(?:_(?P<gpus>[0-9]+)gpu_(?P<hardware>[a-z]+[0-9]+)_(?P<precision>[a-z]+[0-9]+[a-z]*))?(?:_\w+)?_config(?:_\w+)?"
)


def main(arguments: list[str] | None = None) -> int:
    """Generate or compare; returns the exit status."""
    options = committed.options_of(arguments, __doc__, _ROOT / "configs" / "bridge")
    index = generate()
    path = options.directory / f"recipes-{index['bridge']}.json"
    failed = sum("not_run" in entry for entry in index["recipes"].values())
    summary = f"{len(index['recipes'])} recipes, {failed} of them could not be run"
    return committed.write_or_compare(path, render(index), check=options.check, summary=summary, context=0)


def generate() -> dict[str, Any]:
    """Return the index of the installed Megatron Bridge, imported on CPU where there is no GPU."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    _make_importable()
    logging.disable(logging.WARNING)
    found, shadowed = _functions()
    entries = {name: _entry(name, function, found) for name, function in found.items()} | _elsewhere(found)
    return {
        "bridge": importlib.metadata.version("megatron-bridge"),
        "keys": KEYS,
        "shadowed": shadowed,
        "recipes": dict(sorted(entries.items())),
        "shipped": _shipped(),
    }


def render(index: dict[str, Any]) -> str:
    """JSON with one recipe on a line, so that a change of version reads well as a diff."""
    head = [f" {json.dumps(name)}: {json.dumps(index[name])}," for name in ("bridge", "keys", "shadowed")]
    parts = [part for name in ("recipes", "shipped") for part in (f' "{name}": {{', _lines(index[name]), " },")]
    return "\n".join(["{", *head, *parts[:-1], " }", "}", ""])


def _lines(entries: dict[str, Any]) -> str:
    return ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in entries.items()
    )


_OTHER_VALUES = {"adapter": "dora", "moe_token_dispatcher_type": "deepep"}
"""For each parameter of a shipped recipe, a value besides its default; all others take paths."""


def _shipped() -> dict[str, Any]:
    """Describe the recipe files that the launcher ships, by their content: a copy of one is known as well.

    A value is there if the recipe decides it whatever its arguments are; `altered_by` names, for each value that is
    not, the parameters that another value of which changes it.
    """
    from launcher.discovery.recipe import read_recipe
    from launcher.discovery.recipe_index import content_digest

    entries = {}
    for path in sorted((_ROOT / "recipes").glob("*.py")):
        recipe = read_recipe(str(path), _ROOT)
        if isinstance(recipe, BridgeRecipe):
            continue
        said = {"file": path.name, "parameters": list(recipe.parameters)}
        entries[content_digest(recipe)] = _without_none({**said, **_of_file(path, recipe.required)})
    return entries


def _of_file(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    sys.path.insert(0, str(path.parent))
    try:
        return _decided_for_all(importlib.import_module(path.stem).configure, required)
    except ImportError as error:  # a recipe for another release of Bridge
        return {"not_run": _reason(error)}
    finally:
        sys.path.remove(str(path.parent))


def _decided_for_all(function: Callable[..., Any], required: tuple[str, ...]) -> dict[str, Any]:
    needed = dict.fromkeys(required, _ROOT / "configs" / "models")
    plain = _decided(lambda: function(**needed))
    altered: dict[str, list[str]] = {}
    for name in inspect.signature(function).parameters:
        other = _OTHER_VALUES.get(name) or str(_ROOT / "configs")
        changed = _decided(lambda: function(**{**needed, name: other}))  # noqa: B023 called at once
        for short in KEYS:
            if plain.get(short) != changed.get(short):
                altered.setdefault(short, []).append(name)
    decided = {key: value for key, value in plain.items() if key not in ("asks_hub", "tokenizer") or not required}
    return {**decided, "altered_by": altered}


def _make_importable() -> None:
    import torch

    if not torch.cuda.is_available():
        from launcher.job import cpu

        cpu.enable()


def _functions() -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """All recipes by the name that `bridge:` takes, and the modules of those that a recipe of the same name hides."""
    found = _of_module(importlib.import_module("megatron.bridge.recipes"))
    shadowed = {}
    for module in _perf_modules():
        for name, function in _of_module(module).items():
            if found.setdefault(name, function) is not function:
                shadowed[name] = function.__module__
    return found, dict(sorted(shadowed.items()))


def _elsewhere(found: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Entries of recipes that the package has without naming them, so that only their own module gives them."""
    package = importlib.import_module("megatron.bridge.recipes")
    (root,) = package.__path__
    entries: dict[str, Any] = {}
    # By files: pkgutil leaves out a directory without __init__.py, which can be imported all the same.
    for path in sorted(Path(root).rglob("*.py")):
        module = ".".join((package.__name__, *path.relative_to(root).with_suffix("").parts))
        if path.name == "__init__.py" or ".utils." in module:
            continue
        names = [one.name for one in ast.parse(path.read_bytes()).body if isinstance(one, ast.FunctionDef)]
        names = [name for name in names if name not in found and _RECIPE.fullmatch(name) and _NAME.fullmatch(name)]
        entries |= {name: {**_entry_from(name, module), "elsewhere": True} for name in names}
    return entries


def _entry_from(name: str, module: str) -> dict[str, Any]:
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module whose own dependencies are not installed
        return {**described(name, module), "not_run": f"{module} cannot be imported: {_reason(error)}"}
    return _entry(name, function, {})


def _of_module(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: value for name, value in vars(module).items() if inspect.isfunction(value) and _RECIPE.fullmatch(name)
    }


def _perf_modules() -> list[ModuleType]:
    """List the modules of the performance recipes: a package of packages since 0.6, absent before."""
    try:
        perf = importlib.import_module("megatron.bridge.perf_recipes")
    except ImportError:
        return []
    packages = [one.name for one in pkgutil.iter_modules(perf.__path__, f"{perf.__name__}.") if one.ispkg]
    return [importlib.import_module(name) for name in sorted(packages)]


def _entry(name: str, function: Callable[..., Any], found: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Describe a recipe by its name, its place and what it decides; an alias by the recipe that it stands for."""
    own = function.__name__
    if own != name and found.get(own) is function:
        return {"alias_of": own}
    parameters = list(inspect.signature(function).parameters)
    return {**described(name, function.__module__), **_without_none({"parameters": parameters}), **_decided(function)}


def described(name: str, module: str) -> dict[str, Any]:
    """Return what the name and the place imply."""
    package, family = module.removeprefix("megatron.bridge.").split(".")[:2]
    matched = _NAME.fullmatch(name)
    said = matched.groupdict() if matched else {}
    gpus = said.get("gpus")
    return _without_none(
        {
            "module": module,
            "package": package,
            "family": family,
            "model": said.get("model"),
            "task": {"finetune": "sft"}.get(said.get("task") or "", said.get("task")),
            "gpus": int(gpus) if gpus else None,
            "hardware": said.get("hardware"),
            "precision": said.get("precision"),
        }
    )


def _decided(function: Callable[..., Any]) -> dict[str, Any]:
    hub = hub_standins.Hub()
    try:
        with hub_standins.offline(hub):
            config = function()
    except Exception as error:
        return _without_none({"not_run": _reason(error), "asks_hub": sorted(hub.asked)})
    return _without_none(
        {
            **_values(config),
            "mixed_precision": _precision(config.mixed_precision),
            "env": {key: str(value) for key, value in sorted((getattr(config, "env_vars", None) or {}).items())},
            "asks_hub": sorted(hub.asked),
            "tokenizer": _tokenizer(config),
        }
    )


def _reason(error: Exception) -> str:
    """One line, without where Python's packages lie on this machine."""
    text = re.sub(r"/\S*/site-packages/", "", str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {text}"[:200]


def _values(config: Any) -> dict[str, Any]:
    model = config.model
    stated = vars(model)["stated"] if hub_standins.is_standin(model) else None
    values = {}
    for short, key in KEYS.items():
        section, _, name = key.partition(".")
        known = section != "model" or stated is None or name in stated or short in _DEFAULTS_COUNT
        value = getattr(getattr(config, section), name, None) if known else None
        values[short] = value if isinstance(value, (bool, int, str)) else None
    if values["seq"] is None:
        values["seq"] = getattr(config.dataset, "seq_length", None)
    if values["dispatcher"] != "flex":
        values["backend"] = None  # Bridge's default, or one that waits to be switched on: nothing uses it
    values["layers"] = values["layers"] or None
    return values


def _precision(value: Any) -> str | None:
    """Return Bridge's name of the precision, else the type that the recipe computes in."""
    if value is None or isinstance(value, str):
        return value
    from megatron.bridge.training.mixed_precision import MIXED_PRECISION_RECIPES

    for name, make in MIXED_PRECISION_RECIPES.items():
        if "-" not in name and make() == value:
            return str(name)
    base = "bf16" if value.bf16 else "fp16" if value.fp16 else "fp32"
    low = f"fp8 {value.fp8_recipe}" if value.fp8 else "fp4" if getattr(value, "fp4", None) else None
    return f"{base} with {low}" if low else base


def _tokenizer(config: Any) -> str | None:
    """Return the hub's name of a tokenizer that the run itself will load."""
    tokenizer = config.tokenizer
    wanted = getattr(tokenizer, "tokenizer_type", None) == "HuggingFaceTokenizer"
    return str(tokenizer.tokenizer_model) if wanted and tokenizer.tokenizer_model else None


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value not in ([], {})}


if __name__ == "__main__":
    sys.exit(main())
