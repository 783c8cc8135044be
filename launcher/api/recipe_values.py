"""What a recipe sets, asked of the recipe itself in a process that has Megatron Bridge."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, RequestError
from launcher._util.resources import resource
from launcher._util.shell import LocalShell
from launcher.discovery.recipe import BridgeRecipe, read_recipe
from launcher.translation.table import load_table

_TIMEOUT_S = 300


def recipe_values(recipe: str, directory: Path, python: str = sys.executable) -> dict[str, Any]:
    """Return all plain values that a recipe sets, by key; those of Bridge's plain GPT recipe without starting anything.

    `recipe` is `bridge:NAME` or a Python file. Raises RequestError where the recipe fails, CommandError where
    `python` lacks Megatron Bridge.
    """
    table = load_table()
    found = read_recipe(recipe, directory)
    if isinstance(found, BridgeRecipe):
        if found.name == table.base:
            return dict(table.recipe)
        named: dict[str, str] = {"bridge": found.name}
    else:
        named = {"path": str(found.path), "function": found.function}
    request = {"recipe": named, "world_size": 1, "ranks_per_node": 1, "options": {"device": "cpu"}, "values": True}
    entrypoint = resource("entrypoint.py")
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    result = LocalShell().run(
        [python, str(entrypoint), "--check-config"],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in paths if one)},
        check=False,
        timeout_s=_TIMEOUT_S,
    )
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        words = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CommandError(
            f"{recipe} cannot be asked for its values: {words[0]}",
            hint=f"It needs Megatron Bridge beside {python}; bridge:{table.base} is known without it.",
        ) from None
    if not answer["ok"]:
        raise RequestError(answer["error"], where=answer.get("where"), hint=answer.get("hint"))
    values: dict[str, Any] = answer["values"]
    return values
