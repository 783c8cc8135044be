"""--check-config: the recipe run and validated in one CPU process, before anything is queued."""

import contextlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from launcher._util.errors import CommandError, RequestError
from launcher._util.shell import LocalShell, Shell
from launcher.backends import entrypoint_call
from launcher.cli.output import say, warn
from launcher.cli.planning import Planned, with_recipe
from launcher.contract.records import BridgeRecipeRequest, CheckRequest, RecipeFileRequest
from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.planning.model import Plan

_TIMEOUT_S = 600


def checked(made: Planned, shell: Shell | None = None) -> Planned:
    """Build and validate the run's configuration; returns the plan with what became known by that.

    Raises RequestError with the reason why the configuration cannot be trained.
    """
    say("checking the configuration with the recipe itself (--no-check-config leaves this out)")
    request = request_of(made)
    recipe = request["recipe"]
    with _asked(made) as asked:
        if "path" in recipe:
            inside: RecipeFileRequest = {"path": asked.path_inside(recipe["path"]), "function": recipe["function"]}
            request["recipe"] = inside
        result = (shell or LocalShell()).run(
            asked.argv, input=json.dumps(request), env=asked.env, check=False, timeout_s=_TIMEOUT_S
        )
    answer = _answer(result.stdout)
    if answer is None:
        words = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CommandError(f"the configuration check ended with status {result.status}: {words[0]}")
    if not answer["ok"]:
        text, where = (asked.own_paths(answer.get(key)) for key in ("error", "where"))
        raise RequestError(text or "", where=where, hint=answer.get("hint"))
    for text in answer.get("notes", ()):
        say(f"note: {text}")
    for text in answer.get("warnings", ()):
        warn(text)
    resolved: dict[str, Any] = answer["resolved"]
    shown = ", ".join(f"{key}={value}" for key, value in resolved.items() if not isinstance(value, dict))
    say(f"the configuration is valid: {shown}")
    return with_recipe(made, resolved)


@contextlib.contextmanager
def _asked(made: Planned) -> Iterator[entrypoint_call.EntrypointCall]:
    """The check as the job will do it: in the run's image, or with this machine's Megatron where that cannot be."""
    plan, image, verb = made.plan, made.given.image, "--check-config"
    env = environment(plan, made)
    unavailable = entrypoint_call.why_unavailable(image) if image is not None else None
    if image is not None and unavailable is None:
        with entrypoint_call.in_image(plan, image, env, verb) as asked:
            yield asked
        return
    if unavailable is not None:
        say(
            f"not in the image {plan.image.name if plan.image else ''}, but with this machine's Megatron: {unavailable}"
        )
    yield entrypoint_call.on_this_machine(plan, made.release.python or made.host.python, env, verb)


def request_of(made: Planned) -> CheckRequest:
    """What the entrypoint reads for --check-config and --fetch."""
    plan = made.plan
    return {
        "recipe": _absolute_recipe(made),
        "arguments": plan.argv["arguments"],
        "overrides": plan.argv["overrides"],
        "options": plan.argv["options"],
        "world_size": plan.world_size,
        "ranks_per_node": plan.layout.ranks_per_node,
        # Its own checkpoint has the weights: the place that they once came from may be gone.
        "resumed": str(made.resumed.checkpoints) if made.resumed else None,
    }


def stack_is_here(made: Planned) -> bool:
    """Whether a check is possible: the training stack is in an image that can be entered, or on this machine."""
    image = made.given.image
    return (image is not None and entrypoint_call.why_unavailable(image) is None) or own_stack_is_here(made)


def own_stack_is_here(made: Planned) -> bool:
    """Whether this machine has the training stack: where the run's --python is, or beside the launcher."""
    if made.release.python not in (None, made.host.python):
        return made.release.version is not None
    return find_spec("torch") is not None and find_spec("megatron") is not None


def _absolute_recipe(made: Planned) -> RecipeFileRequest | BridgeRecipeRequest:
    recipe = read_recipe(made.request.recipe or "", made.host.directory)
    if isinstance(recipe, RecipeFile):
        return {"path": str(recipe.path), "function": recipe.function}
    return {"bridge": recipe.name}


def environment(plan: Plan, made: Planned) -> dict[str, str]:
    """What the run's tasks will have of variables, as far as the plan sets them or this shell passes them on."""
    from launcher.backends.process_environment import inherited

    profile = {v.name: v.value for v in plan.environment if v.scope == "task" and v.value is not None}
    return {**inherited(plan, made.host.environ), **profile}


def _answer(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None
