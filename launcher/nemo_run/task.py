"""From a task of NeMo-Run (`run.Script`, `run.Partial`) to what the launcher is asked for: the keys of a job file."""

import filecmp
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher._util.errors import RecipeError, RequestError
from launcher.contract.values import text_of

_RECIPES = "megatron.bridge.recipes"
_TRAININGS = {
    ("megatron.bridge.training.pretrain", "pretrain"),
    ("megatron.bridge.training.finetune", "finetune"),
}
_FORWARD_STEP = ("megatron.bridge.training.gpt_step", "forward_step")
"""The step that the launcher trains with."""

_RECIPE = '''"""Stands for a command of NeMo-Run, which {program} runs."""


def configure() -> None:
    """Return nothing: there is no configuration."""
'''


@dataclass
class TranslatedTask:
    """A task in the launcher's words."""

    stated: dict[str, Any] = field(default_factory=dict)
    """Keys of a job file with their values; paths are absolute."""
    left_out: list[str] = field(default_factory=list)
    """What of the task the launcher does not do, one sentence each."""


def translate_task(task: Any, name: str, directory: Path, *, ship: Sequence[str] = ()) -> TranslatedTask:
    """Return the request of a task, and write what travels with it into `directory`.

    A recipe of Megatron Bridge, alone or as the configuration of its `pretrain` or `finetune`, is the launcher's own
    training. Every other function runs by NeMo-Run's own program, every script as it is: once in each rank.
    Raises RequestError for what cannot be run.
    """
    import nemo_run

    if isinstance(task, nemo_run.Script):
        return _command(_script_words(task, directory), directory, env=task.env, ship=ship)
    called = (task.__fn_or_cls__.__module__, task.__fn_or_cls__.__qualname__)
    arguments = dict(task.__arguments__)
    if called[0].startswith(_RECIPES):
        return TranslatedTask({"recipe": f"bridge:{called[1]}", "assignments": _assignments(arguments)})
    if called in _TRAININGS:
        return _training(arguments, name)
    return _command(_function_words(task, name, directory), directory, ship=ship)


def _training(arguments: Mapping[str, Any], name: str) -> TranslatedTask:
    """Translate `run.Partial(pretrain, config=run.Config(RECIPE, ...), forward_step_func=...)`."""
    config: Any = arguments.get("config")
    made = getattr(config, "__fn_or_cls__", None)
    if made is None or not made.__module__.startswith(_RECIPES):
        raise RequestError(
            f"the config of task {name} is not a recipe of Megatron Bridge",
            hint="Give it as run.Config(RECIPE, ...), or the recipe alone as run.Partial(RECIPE, ...).",
        )
    step = arguments.get("forward_step_func")
    named = (getattr(step, "__module__", None), getattr(step, "__qualname__", None))
    if step is not None and named != _FORWARD_STEP:
        raise RequestError(
            f"task {name} trains with {named[0]}.{named[1]}, and the launcher with {'.'.join(_FORWARD_STEP)}",
            hint="Run it as a script of your own: run.Script('train.py', entrypoint='python').",
        )
    found = TranslatedTask({"recipe": f"bridge:{made.__qualname__}", "assignments": _assignments(config.__arguments__)})
    known = {"config", "forward_step_func"}
    found.left_out = [f"{key}: not an argument of the launcher's training" for key in arguments if key not in known]
    return found


def _assignments(arguments: Mapping[str, Any]) -> list[str]:
    for key, value in arguments.items():
        if not _is_plain(value):
            raise RequestError(
                f"{key}={value!r} is not a text, a number, a switch, null, or a list or table of these",
                hint="Write a recipe of your own, which makes the object, and name that: path.py.",
            )
    return [f"{key}={text_of(value)}" for key, value in arguments.items()]


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _command(
    words: list[str], directory: Path, *, env: Mapping[str, str] | None = None, ship: Sequence[str] = ()
) -> TranslatedTask:
    """Return the request of a command, whose files lie in `directory` and travel with it."""
    import launcher

    program = Path(launcher.__file__).parent / "job/command.py"
    for each in ship:
        _copy(Path(each), directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "command.json").write_text(json.dumps({"words": words}, indent=1) + "\n")
    (directory / "task.py").write_text(_RECIPE.format(program="launcher/job/command.py"))
    found = TranslatedTask({"recipe": str(directory / "task.py"), "ship": [str(directory)]})
    found.stated |= {"entrypoint": str(program), "gpus_per_node": 1}
    if env:
        found.stated["env"] = [f"{key}={value}" for key, value in env.items()]
    return found


def _script_words(script: Any, directory: Path) -> list[str]:
    first = script.entrypoint.split()
    if script.inline:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "script.sh").write_text(f"#!/usr/bin/bash\n{script.inline}")
        return [*first, "script.sh"]
    if script.m:
        return [*first, "-m", script.path, *script.args]
    path = Path(script.path)
    if path.exists():
        return [*first, _copy(path, directory), *script.args]
    if not path.is_absolute():
        raise RecipeError(f"there is no script {script.path!r}", where=str(Path.cwd()))
    return [*first, str(path), *script.args]  # it may be in the image


def _copy(path: Path, directory: Path) -> str:
    """Copy a file with its local imports, or a directory, under its relative path; return that path."""
    from launcher.discovery.shipped_code import imported_files

    if not path.exists():
        raise RecipeError(f"there is no file or directory {str(path)!r} to travel with the task", where="ship")
    relative = path if not path.is_absolute() and ".." not in path.parts else Path(path.name)
    if path.is_dir():
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(path, directory / relative, dirs_exist_ok=True, ignore=ignore, copy_function=_copy_file)
        return str(relative)
    absolute = path.absolute()
    files = [absolute, *(imported_files(absolute) if path.suffix == ".py" else ())]
    for file in files:
        target = directory / relative.parent / file.relative_to(absolute.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(file, target)
    return str(relative)


def _copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file. Raises RecipeError where another file of the task is in its place."""
    if Path(target).exists() and not filecmp.cmp(source, target, shallow=False):
        raise RecipeError(
            f"{source} and another file would both travel as {str(target)!r}",
            where="ship",
            hint="Name both by paths relative to this directory, or rename one.",
        )
    shutil.copy2(source, target)


def _function_words(task: Any, name: str, directory: Path) -> list[str]:
    """Return the words that run a configured function by NeMo-Run's own program, which its interpreter must have."""
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    # The program looks for the script of the user, whose functions are those of __main__, three directories above.
    file = directory / name / "configs" / "function"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ZlibJSONSerializer().serialize(task))
    main = _main_file()
    if main is not None:
        shutil.copy2(main, directory / "__main__.py")
    return ["python", "-m", "nemo_run.core.runners.fdl_runner", "-n", name, str(file.relative_to(directory))]


def _main_file() -> Path | None:
    import sys

    name = getattr(sys.modules.get("__main__"), "__file__", None)
    path = Path(name) if name else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None
