"""--check-config: run the recipe and validate its configuration in one CPU process, before anything is queued."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, RequestError
from launcher._util.shell import LocalShell, Shell
from launcher._util.user_paths import require_directory
from launcher.api.check_cache import CheckCache
from launcher.api.discover import Discovered
from launcher.api.progress import Progress
from launcher.backends import entrypoint_call
from launcher.contract.checkpoints import holds_checkpoint
from launcher.contract.records.request import BridgeRecipeRequest, CheckRequest, RecipeFileRequest
from launcher.contract.variables import expanded
from launcher.discovery.files import require_sources
from launcher.discovery.recipe import RecipeFile
from launcher.discovery.training_files import TrainingFiles, check_training_files
from launcher.planning import preflight
from launcher.planning.inputs import FromCheck
from launcher.planning.task import TaskPlan, plan_task

_TIMEOUT_S = 600


def check_config(found: Discovered, progress: Progress, shell: Shell | None = None) -> FromCheck:
    """Build and validate the run's configuration; return what became known.

    What can be refused without running the recipe is refused first. Raises RequestError with the reason why the
    configuration cannot be trained, CommandError where the check itself failed.
    """
    task = plan_task(found.inputs)
    require_sources(mount.source for mount in task.mounts)
    require_directory(Path(task.run_dir).parent, "--run-root")
    request = entrypoint_request(found, task)
    env = task_environment(found, task)
    cache = CheckCache(found, task, request, env)
    kept = cache.read()
    answer: dict[str, Any] | None
    if kept is not None:
        answer, checked = kept
        progress.info(f"nothing has changed since the check of {checked}, and its answer is used")
    else:
        progress.info("checking the configuration with the recipe itself (--no-check-config leaves this out)")
        ask = _ask_on_node if found.inputs.request.check_on == "node" else _ask_here
        answer, call = ask(found, task, env, progress, shell)
        if not answer["ok"]:
            error, where = (call.own_paths(answer.get(key)) for key in ("error", "where"))
            hint = _left_behind(found, error or "") or answer.get("hint")
            raise RequestError(error or "", where=where, hint=hint)
        cache.write(answer)
    for text in answer.get("notes", ()):
        progress.info(f"note: {text}")
    for text in answer.get("warnings", ()):
        progress.warn(text)
    resolved: dict[str, Any] = answer["resolved"]
    shown = ", ".join(f"{key}={value}" for key, value in resolved.items() if not isinstance(value, dict))
    progress.info(f"the configuration is valid: {shown}")
    return FromCheck(resolved, _files(found, task, resolved))


def _ask_here(
    found: Discovered, task: TaskPlan, env: Mapping[str, str], progress: Progress, shell: Shell | None
) -> tuple[dict[str, Any], entrypoint_call.EntrypointCall]:
    with _call(found, task, env, progress) as call:
        text = json.dumps(entrypoint_request(found, task, call))
        result = (shell or LocalShell()).run(call.argv, input=text, env=call.env, check=False, timeout_s=_TIMEOUT_S)
    answer = _answer(result.stdout)
    if answer is None:
        words = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CommandError(f"the configuration check ended with status {result.status}: {words[0]}")
    return answer, call


def _ask_on_node(
    found: Discovered, task: TaskPlan, _env: Mapping[str, str], progress: Progress, shell: Shell | None
) -> tuple[dict[str, Any], entrypoint_call.EntrypointCall]:
    from launcher.api.check_on_node import check_on_node

    request = entrypoint_request(found, task)
    # The recipe lies there where the run would have it.
    return check_on_node(found, task, {**request, "recipe": task.argv["recipe"]}, progress, shell)


def _left_behind(found: Discovered, error: str) -> str | None:
    """Return what to do where the error names something that lies beside the recipe and does not travel with it."""
    recipe = found.inputs.recipe
    if not isinstance(recipe, RecipeFile) or ("No module named" not in error and "No such file" not in error):
        return None
    home = recipe.path.parent
    travels = {target.partition("/")[0] for target, _source in found.inputs.shipped.files}
    stays = sorted(path.name for path in home.iterdir() if path.name not in travels and not path.name.startswith("."))
    for name in stays:
        if re.search(rf"(?<![\w.]){re.escape(name.removesuffix('.py'))}(?!\w)", error):
            return (
                f"{name} lies beside the recipe and does not travel with it: --ship {name}, or ship = [{name!r}] in "
                "launcher.toml, adds it."
            )
    return None


@contextlib.contextmanager
def _call(
    found: Discovered, task: TaskPlan, env: Mapping[str, str], progress: Progress
) -> Iterator[entrypoint_call.EntrypointCall]:
    """Call the entrypoint as the job will, in the run's image, or else with this machine's Megatron."""
    image, command = found.inputs.image, "--check-config"
    unavailable = entrypoint_call.why_unavailable(image) if image is not None else None
    if image is not None and unavailable is None:
        with entrypoint_call.in_image(task, image, env, command) as call:
            yield call
        return
    if image is not None:
        progress.info(f"not in the image {image.name}, but with this machine's Megatron: {unavailable}")
    python = found.release.python or found.inputs.host.python
    with entrypoint_call.on_this_machine(task, python, env, command) as call:
        yield call


def entrypoint_request(
    found: Discovered, task: TaskPlan, call: entrypoint_call.EntrypointCall | None = None
) -> CheckRequest:
    """Return what the entrypoint reads for --check-config and --fetch, with the paths that count in `call`."""
    recipe = found.inputs.recipe
    named: RecipeFileRequest | BridgeRecipeRequest
    if isinstance(recipe, RecipeFile):
        path = str(recipe.path)
        named = {"path": call.path_inside(path) if call else path, "function": recipe.function}
    else:
        named = {"bridge": recipe.name}
    return {
        "recipe": named,
        "arguments": task.argv["arguments"],
        "overrides": task.argv["overrides"],
        "options": task.argv["options"],
        "world_size": task.world_size,
        "ranks_per_node": task.layout.ranks_per_node,
        # Its own checkpoint has the weights: the directory that they once came from may be gone.
        "resumed": str(found.resumed.checkpoints) if found.resumed else None,
    }


def stack_is_here(found: Discovered) -> bool:
    """Return whether a check is possible: the training stack is in an image that can be entered, or on this machine."""
    image = found.inputs.image
    return (image is not None and entrypoint_call.why_unavailable(image) is None) or own_stack_is_here(found)


def own_stack_is_here(found: Discovered) -> bool:
    """Return whether this machine has the training stack, for the run's --python or beside the launcher."""
    if found.release.python not in (None, found.inputs.host.python):
        return found.release.version is not None
    return find_spec("torch") is not None and find_spec("megatron") is not None


def task_environment(found: Discovered, task: TaskPlan) -> dict[str, str]:
    """Return the variables that the run's tasks get from the plan and from this shell."""
    from launcher.backends.process_environment import inherited

    environment = inherited(task, found.inputs.host.environ)
    for variable in task.environment:
        if variable.scope == "task" and variable.operation == "set" and variable.value is not None:
            value = variable.value
            environment[variable.name] = expanded(value, environment) if variable.expand else value
    return environment


def _files(found: Discovered, task: TaskPlan, resolved: Mapping[str, Any]) -> TrainingFiles:
    job = {variable.name: variable.value for variable in task.environment if variable.value is not None}
    values = preflight.flattened(resolved)
    named = check_training_files(values, {**found.inputs.host.environ, **job})
    before = found.inputs.knowledge.files
    return dataclasses.replace(named, loads=before.loads, forbidden=_forbidden(found, values.get("checkpoint.load")))


def _forbidden(found: Discovered, load: Any) -> str | None:
    """Return the checkpoint that the recipe itself names and that the ranks of a new run refuse to load."""
    if found.resumed is not None or found.inputs.request.allow_checkpoint_load or not isinstance(load, str):
        return None
    # Bridge's own default, below which the run never looks.
    if "nemo_experiments" in Path(load).parts:
        return None
    return load if "://" in load or holds_checkpoint(Path(load)) else None


def _answer(text: str) -> dict[str, Any] | None:
    """Return the answer in the output of a check; None where it is something else."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None
