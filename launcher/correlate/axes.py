"""What two trainings may differ in, besides settings: images, commits, Megatron-Cores, variables, sizes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher._util.errors import CommandError, ConfigError
from launcher._util.shell import LocalShell
from launcher._util.user_paths import user_path
from launcher.contract import values as hydra
from launcher.discovery.megatron_lm import find_source
from launcher.discovery.recipe import MLM
from launcher.translation.translate import to_mlm

OPTIONS: Mapping[str, str] = {
    "image": "image",
    "mcore": "mcore",
    "mlm-source": "mlm_source",
    "runtime": "runtime",
    "python": "python",
    "nodes": "nodes",
    "gpus-per-node": "gpus_per_node",
}
"""Axes that are options of a run, with their names in a request."""
_NUMBERS = ("nodes", "gpus-per-node")
"""Those whose values are whole numbers; a commit of digits alone stays a text."""
COMMIT = "commit"
"""The axis of the commits of the repository that a recipe, or Megatron-LM's script, is in."""
ENV = "env."
"""What an axis begins with that is a variable of the environment."""
INSTALLED = "installed"
"""The value of `mcore` that stands for the image's own."""


@dataclass(frozen=True)
class Training:
    """One side as it is asked for."""

    recipe: str
    assignments: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Megatron-LM's arguments."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of this side alone, by their names in a request."""
    commit: str | None = None
    """The commit of its repository that it is run from; None: the files as they are."""

    @property
    def is_megatron_lm(self) -> bool:
        """Return whether it is a command line of Megatron-LM."""
        return self.recipe.startswith(MLM)


def read_axis(text: str) -> tuple[str, str, str]:
    """Return the axis of `AXIS=A,B` and both values. Raises ConfigError."""
    axis, equals, values = text.partition("=")
    found = split_values(values)
    if not equals or not axis or len(found) != 2 or not all(found):
        raise ConfigError("is AXIS=A,B: a key and two values", where=f"--vary {text}")
    return axis.removeprefix("--"), found[0], found[1]


def split_values(text: str) -> list[str]:
    """Split at commas that are in no bracket: the values of `[1,2],[3]` are `[1,2]` and `[3]`."""
    found, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return found


def changed(training: Training, axis: str, value: str) -> Training:
    """Return the training with one value of an axis. Raises ConfigError."""
    if axis == COMMIT:
        return dataclasses.replace(training, commit=value)
    if axis in OPTIONS:
        is_number = axis in _NUMBERS and value.isdecimal()
        options = {**training.options, OPTIONS[axis]: int(value) if is_number else value}
        if axis == "mcore" and value == INSTALLED:
            del options["mcore"]
        return dataclasses.replace(training, options=options)
    if axis.startswith(ENV):
        name = axis.removeprefix(ENV)
        kept = [one for one in training.options.get("env", ()) if one.partition("=")[0] != name]
        return dataclasses.replace(training, options={**training.options, "env": (*kept, f"{name}={value}")})
    if not training.is_megatron_lm:
        return with_assignments(training, [f"{axis}={value}"])
    if "." in axis:
        return dataclasses.replace(
            training, words=(*training.words, *to_mlm([f"{axis}={value}"], defaults=False).words)
        )
    return dataclasses.replace(training, words=(*training.words, f"--{axis.replace('_', '-')}", value))


def with_assignments(training: Training, texts: Sequence[str]) -> Training:
    """Return a training of Bridge with these assignments in the place of earlier ones of the same keys."""
    keys = {key_of(text) for text in texts}
    kept = [text for text in training.assignments if key_of(text) not in keys]
    return dataclasses.replace(training, assignments=(*kept, *texts))


def key_of(text: str) -> str:
    """Return the key of an assignment, which need not be an override: a recipe has arguments, too."""
    return hydra.parse(text).key if "." in text.partition("=")[0] else text.partition("=")[0].lstrip("+~")


def at_commit(training: Training, directory: Path) -> Training:
    """Return the training as it is run: from the files of its commit. Raises ConfigError, RecipeError, CommandError."""
    if training.commit is None:
        return training
    source = f"{repository_of(training, directory)}@{training.commit}"
    if training.is_megatron_lm:
        return dataclasses.replace(training, options={**training.options, "mlm_source": source}, commit=None)
    path, function = _file(training, directory)
    tree, _ = find_source(source, directory, os.environ)
    within = path.relative_to(repository_of(training, directory))
    return dataclasses.replace(training, recipe=f"{tree / within}{function}", commit=None)


def repository_of(training: Training, directory: Path) -> Path:
    """Return the repository whose commits a training can be run from. Raises ConfigError."""
    if training.is_megatron_lm:
        source = str(training.options.get("mlm_source", "")).partition("@")[0]
        if not source or not (path := user_path(source, directory, error=ConfigError).resolve()).is_dir():
            raise ConfigError(
                "names no checkout whose commits could be compared", where=training.recipe, hint="Add --mlm-source DIR."
            )
        return path
    path, _ = _file(training, directory)
    root = _top(path.parent)
    if root is None:
        raise ConfigError("is in no git repository", where=str(path))
    return root


def _file(training: Training, directory: Path) -> tuple[Path, str]:
    """Return a recipe's file, and what names the function in it. Raises ConfigError."""
    name, suffix, function = training.recipe.partition(".py")
    if not suffix:
        raise ConfigError(
            "is a recipe of the installed Megatron Bridge, which has no commits here",
            where=training.recipe,
            hint="Compare two images, or use a recipe file in a repository of your own.",
        )
    return user_path(f"{name}.py", directory, error=ConfigError).resolve(), function


def _top(directory: Path) -> Path | None:
    """Return the top of the git repository that a directory is in; None outside one."""
    try:
        found = LocalShell().run(
            ["git", "-C", str(directory), "rev-parse", "--show-toplevel"], check=False, timeout_s=60
        )
    except CommandError:
        return None
    return Path(found.stdout.strip()).resolve() if found.status == 0 else None
