"""Resolves every recipe of the installed Megatron Bridge as --check-config does, in one process and without network.

`python -m tests.job.all_recipes` writes JSON: for each name either `differs` (what is not as in the index, by key)
or `why` it cannot be resolved here.
"""

import json
import logging
import math
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from launcher.discovery.recipe_index import IndexedRecipe, installed_metadata, load_index, version_of

RESOLVED = {
    "model.tensor_model_parallel_size": "tensor_model_parallel_size",
    "model.pipeline_model_parallel_size": "pipeline_model_parallel_size",
    "model.context_parallel_size": "context_parallel_size",
    "model.expert_model_parallel_size": "expert_model_parallel_size",
    "train.global_batch_size": "global_batch_size",
    "train.micro_batch_size": "micro_batch_size",
    "train.train_iters": "train_iters",
    "model.seq_length": "seq_length",
}
"""Keys of the index, with the names that a resolved configuration has for them."""

_SHAPE = ("model.num_layers=48", "model.hidden_size=64", "model.num_attention_heads=8")
"""For the recipes of family gpt, which leave it to their user."""


def world_size(recipe: IndexedRecipe) -> int:
    """As many ranks as the recipe was written for, else the fewest that its parallel sizes divide."""
    names = ("tensor_model", "pipeline_model", "context", "expert_model", "expert_tensor")
    tp, pp, cp, ep, etp = (int(recipe.values.get(f"model.{name}_parallel_size") or 1) for name in names)
    return recipe.gpus or math.lcm(tp * pp * cp, etp * ep * pp)


def resolve(recipe: IndexedRecipe) -> dict[str, Any]:
    """One recipe: what differs from the index, or why it cannot be resolved."""
    from launcher.contract.values import parse
    from launcher.job.config import check, overrides
    from launcher.job.config import recipe as recipes
    from launcher.job.errors import UserError

    try:
        config = recipes.load({"bridge": recipe.name}, {}, Path.cwd())
        config = overrides.apply(config, [parse(text) for text in _SHAPE] if recipe.family == "gpt" else ())
        if recipe.task in ("sft", "peft"):
            config.checkpoint.pretrained_checkpoint = str(Path.cwd())  # weights to start from are not the question
        found = check.resolved(check.validate(config, world_size(recipe)).config)
    except UserError as error:
        return {"why": _reason(error.message, recipe)}
    wanted = {name: recipe.values[key] for key, name in RESOLVED.items() if key in recipe.values}
    return {"differs": {name: [value, found[name]] for name, value in wanted.items() if found[name] != value}}


def _reason(text: str, recipe: IndexedRecipe) -> str:
    """The class of a failure: the hub's files are not here, or the error's first words."""
    if re.search(r"couldn't connect to|Failed to load configuration from|does not appear to have a file named", text):
        return f"needs files of {', '.join(recipe.fetches)}"
    return text.partition("\n")[0][:200]


def main() -> None:
    """Answer on standard output."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as empty:
        os.environ |= {"HF_HOME": empty, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        time.sleep = lambda _seconds: None  # Bridge waits between its attempts to reach the hub
        from launcher.job import cpu

        cpu.enable()
        found = installed_metadata()
        recipes = load_index(version_of(found) if found else None).recipes.values()
        own = [one for one in recipes if one.alias_of is None and not one.elsewhere]
        answers = {one.name: resolve(one) for one in own}
    sys.stdout.write(f"\n{json.dumps(answers)}\n")


if __name__ == "__main__":
    main()
