"""--check-config: the recipe run and validated in one CPU process, before anything is queued."""

import json
from importlib.util import find_spec
from typing import Any

from launcher.cli.planning import Planned, with_recipe
from launcher.cli.printing import say, warn
from launcher.errors import CommandError, RequestError
from launcher.facts.recipe import RecipeFile, read_recipe
from launcher.plan.model import Plan
from launcher.shell import LocalShell, Shell

_TIMEOUT_S = 600


def checked(made: Planned, shell: Shell | None = None) -> Planned:
    """Build and validate the run's configuration; returns the plan with what became known by that.

    Raises RequestError with the reason why the configuration cannot be trained.
    """
    plan = made.plan
    say("checking the configuration with the recipe itself (--no-check-config leaves this out)")
    request = {
        "recipe": _absolute_recipe(made),
        "arguments": plan.argv["arguments"],
        "overrides": plan.argv["overrides"],
        "settings": plan.argv["settings"],
        "world_size": plan.world_size,
        "ranks_per_node": plan.geometry.ranks_per_node,
    }
    entrypoint = dict(plan.code)["entrypoint.py"]
    result = (shell or LocalShell()).run(
        [made.world.python, entrypoint, "--check-config"],
        input=json.dumps(request),
        env=_environment(plan, made),
        check=False,
        timeout_s=_TIMEOUT_S,
    )
    answer = _answer(result.stdout)
    if answer is None:
        words = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CommandError(f"the configuration check ended with status {result.status}: {words[0]}")
    if not answer["ok"]:
        raise RequestError(answer["error"], where=answer.get("where"), hint=answer.get("hint"))
    for text in answer.get("notes", ()):
        say(f"note: {text}")
    for text in answer.get("warnings", ()):
        warn(text)
    resolved: dict[str, Any] = answer["resolved"]
    shown = ", ".join(f"{key}={value}" for key, value in resolved.items() if not isinstance(value, dict))
    say(f"the configuration is valid: {shown}")
    return with_recipe(made, resolved)


def stack_is_here() -> bool:
    """Whether the training stack is installed beside the launcher, so that a check is possible."""
    return find_spec("torch") is not None and find_spec("megatron") is not None


def _absolute_recipe(made: Planned) -> dict[str, str]:
    recipe = read_recipe(made.request.recipe or "", made.world.directory)
    if isinstance(recipe, RecipeFile):
        return {"path": str(recipe.path), "function": recipe.function}
    return {"bridge": recipe.name}


def _environment(plan: Plan, made: Planned) -> dict[str, str]:
    from launcher.launch.environ import inherited

    profile = {v.name: v.value for v in plan.environment if v.place == "task" and v.value is not None}
    return {**inherited(plan, made.world.environ), **profile}


def _answer(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None
