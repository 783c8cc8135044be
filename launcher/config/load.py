"""Where profiles and configuration files are, and which value wins.

The first hit counts: option, `LAUNCHER_*` variable, `launcher.toml` of the directory, `~/.config/launcher/config.toml`,
job file, cluster profile. Of a request from another machine the job file holds all that was stated there, and a
preset of this machine is weaker.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from launcher._util import toml
from launcher._util.errors import ConfigError
from launcher._util.resources import resource
from launcher._util.user_paths import user_path
from launcher.config.cluster import Cluster
from launcher.config.model import Key, Model, ModelError, unknown_key
from launcher.config.request import Request, assignment_key
from launcher.contract import files
from launcher.contract.values import nearest

DEFAULTS = (
    "cluster",
    "account",
    "partition",
    "qos",
    "time",
    "image",
    "runtime",
    "run_root",
    "shared",
    "ship",
    "notify",
    "notify_url",
)
"""Keys that a variable or a configuration file may preset; the rest is stated for each run."""

JOINED = ("assignments", "env", "expand_env", "mounts", "ship", "srun_args", "nsys_args")
"""Lists in which the options' items are added to those of a job file."""

ON_HOST = "LAUNCHER_ON_HOST"
"""A variable that is set for the launcher that answers another machine: there [ssh] of a profile has no meaning."""


_LARGEST_BYTES = 256 << 10
"""Of a configuration file: the largest that ships has 3 KiB, and tomlkit reads 100 KiB a second."""

_DEEPEST = 16
"""Tables and lists of a configuration file inside each other: profiles have two."""

_SHOWN = 8
"""Mistakes of one file that a message names."""

_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""What a variable that presets a switch may hold."""


def cluster_directories(environ: Mapping[str, str]) -> list[Path]:
    """Return the directories of profiles; the first that has a name wins."""
    own = [Path(environ["LAUNCHER_CLUSTERS"])] if environ.get("LAUNCHER_CLUSTERS") else []
    return [*own, config_home(environ) / "clusters", resource("configs/clusters")]


def cluster_names(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the name of every profile with its file."""
    found: dict[str, Path] = {}
    for directory in cluster_directories(environ):
        for path in sorted(directory.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def load_cluster(name: str, environ: Mapping[str, str]) -> Cluster:
    """Return the profile called `name`, or of the file NAME.toml, merged with those that it extends.

    Raises ConfigError.
    """
    chain = cluster_chain(name, environ)
    merged: dict[str, Any] = {}
    for _, path in reversed(chain):
        values = read_toml(path)
        unset = unset_keys(values, where=str(path))
        merged = deep_merge(_without(merged, unset, where=str(path)), {k: v for k, v in values.items() if k != "unset"})
    return parse(Cluster, {**merged, "name": chain[0][0]}, where=str(chain[0][1]))


def cluster_chain(name: str, environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    """Return the profile called `name` and then those that it extends, each with its file. Raises ConfigError.

    A `name` that ends in `.toml` is the path of the profile's file.
    """
    names = cluster_names(environ)
    chain: list[tuple[str, Path]] = []
    wanted: str | None = name
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError("there is no such cluster profile", where=name)
        wanted, names = path.stem, {**names, path.stem: path}
    while wanted is not None:
        seen = [each for each, _ in chain]
        if wanted in seen:
            raise ConfigError(f"profiles extend each other in a circle: {' -> '.join([*seen, wanted])}")
        if wanted not in names:
            raise ConfigError(f"there is no cluster profile {wanted!r}", hint=_known_profiles(wanted, names, environ))
        chain.append((wanted, names[wanted]))
        extended = read_toml(names[wanted]).get("extends")
        if extended is not None and not isinstance(extended, str):
            raise ConfigError("extends is the name of one profile", where=str(names[wanted]), hint='extends = "slurm"')
        wanted = extended
    return chain


def _known_profiles(wanted: str, names: Iterable[str], environ: Mapping[str, str]) -> str:
    near = nearest(wanted, names) or sorted(each for each in names if each.startswith(wanted.partition("-")[0]))[:3]
    question = f"Did you mean {' or '.join(near)}? " if near else ""
    own = cluster_directories(environ)[0]
    return f"{question}`launcher clusters list` shows all profiles; yours are in {own}."


def unset_keys(values: Mapping[str, Any], *, where: str) -> tuple[str, ...]:
    """Return the keys (tables with a dot) that a profile does not take from those that it extends.

    Raises ConfigError.
    """
    unset = values.get("unset", [])
    if not isinstance(unset, list) or not all(isinstance(key, str) for key in unset):
        raise ConfigError("unset is a list of keys that the extended profile sets", where=where, hint='["env.NAME"]')
    return tuple(unset)


def _without(values: Mapping[str, Any], keys: Iterable[str], *, where: str) -> dict[str, Any]:
    """Return the values without these keys. Raises ConfigError for a key that is not set: it is probably misspelt."""
    left = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key in keys:
        table, _, name = key.rpartition(".")
        inner = left.get(table) if table else left
        if not isinstance(inner, dict) or name not in inner:
            raise ConfigError(f"unset names {key!r}, which the extended profile does not set", where=where)
        del inner[name]
    return left


def read_job_file(path: Path) -> dict[str, Any]:
    """Return what a job file states, by the request's keys; its recipe's path is relative to the file.

    Raises ConfigError.
    """
    values = read_toml(path)
    parse(Request, values, where=str(path))
    recipe = values.get("recipe")
    if isinstance(recipe, str):
        values["recipe"] = located_recipe(recipe, path.parent)
    return values


def add_job_file(stated: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options and a job file state together; options are stronger.

    Lists of both add up, those of the options last, except for assignments of the same key. So do sbatch's options.
    """
    merged = {**job, **stated}
    if "assignments" in stated and "assignments" in job:
        keys = {assignment_key(text) for text in stated["assignments"]}
        job = {**job, "assignments": [text for text in job["assignments"] if assignment_key(text) not in keys]}
    for key in JOINED:
        if key in stated and key in job:
            merged[key] = (*job[key], *stated[key])
    if "sbatch" in stated and "sbatch" in job:
        merged["sbatch"] = {**job["sbatch"], **stated["sbatch"]}
    return merged


def load_request(
    stated: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    directory: Path,
    job: Mapping[str, Any] = MappingProxyType({}),
) -> Request:
    """Return the request with its defaults: options first, then variables, launcher.toml, config.toml, the job file.

    `stated` are the options, `job` is the result of `read_job_file`. Raises ConfigError that names the file, or the
    variable.
    """
    variables = {name: f"LAUNCHER_{name.upper()}" for name in DEFAULTS}
    preset: dict[str, Any] = {name: environ[variable] for name, variable in variables.items() if environ.get(variable)}
    if "shared" in preset:
        preset["shared"] = _SWITCHES.get(preset["shared"].lower(), preset["shared"])
    if "ship" in preset:
        preset["ship"] = tuple(preset["ship"].split(os.pathsep))
    parse(Request, preset, where=None, label=lambda key: variables[key[0]])
    directory_file, own_file = directory / "launcher.toml", config_home(environ) / "config.toml"
    merged = {**_read_defaults(own_file), **_read_defaults(directory_file), **preset}
    both = add_job_file(stated, job)
    # A default is weaker than an option, also one of another machine, and stronger than a job file.
    # A recipe of Megatron Bridge has no files of its own to which a default could add.
    preset_ship = merged.pop("ship", ())
    if str(both.get("recipe", "")).startswith("bridge:"):
        preset_ship = ()
    added = {"ship": (*preset_ship, *both.get("ship", ()))} if preset_ship else {}
    stronger = both if environ.get(ON_HOST) else stated
    merged = {**both, **merged, **{key: both[key] for key in stronger}, **added}
    if str(merged.get("cluster", "")).endswith(".toml"):
        merged["cluster"] = str(user_path(merged["cluster"], directory, where="--cluster"))
    return parse(Request, merged, where="the request")


def located_recipe(recipe: str, directory: Path) -> str:
    """Return a recipe that a file in `directory` names, as it is called from anywhere; a path is relative to it."""
    file = recipe.rpartition(":")[0] or recipe
    is_path = file.endswith(".py") and not recipe.startswith(("bridge:", "mlm:", "~"))
    return str(directory / recipe) if is_path else recipe


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's content. Raises ConfigError."""
    try:
        values: dict[str, Any] | None = toml.loads(files.read_text(path, limit=_LARGEST_BYTES))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot be read: {reason}", where=str(path)) from error
    except RecursionError:
        values = None
    if values is None or files.is_deeper_than(values, _DEEPEST):
        raise ConfigError(f"cannot be read: it is nested more than {_DEEPEST} deep", where=str(path))
    return values


Parsed = TypeVar("Parsed", bound=Model)


def parse(
    model: type[Parsed], values: Mapping[str, Any], *, where: str | None, label: Callable[[Key], str] = ".".join
) -> Parsed:
    """Validate `values`. `label` turns a key into what the user wrote: an option, a variable; by default the key.

    Raises ConfigError that names each wrong key, and for unknown ones the nearest.
    """
    try:
        return model.model_validate(values)
    except ModelError as error:
        raise _config_error(error, where, label) from None


_OF_OTHER_FABRICS = (
    "Of other networks it is not known what NCCL has to select and which variables it needs. Leave `fabric` out and\n"
    "state variables below [env], or describe the network once: launcher help fabric"
)


def _config_error(error: ModelError, where: str | None, label: Callable[[Key], str]) -> ConfigError:
    sentences = [f"{label(problem.key)}: {problem.text}" for problem in error.problems]
    # Where a name is near, the question says enough.
    far = (problem for problem in error.problems if problem.known and problem.text.endswith("unknown key"))
    known = dict.fromkeys(name for problem in far for name in sorted(problem.known))
    hint = f"Known keys: {', '.join(known)}." if known else None
    if any(problem.key == ("fabric",) for problem in error.problems):
        hint = _OF_OTHER_FABRICS
    sentences = list(dict.fromkeys(sentences))
    if len(sentences) > _SHOWN:
        sentences[_SHOWN:] = [f"and {len(sentences) - _SHOWN} more"]
    return ConfigError("; ".join(sentences), where=where, hint=hint)


def _read_defaults(path: Path) -> dict[str, Any]:
    # A directory of this name, or a link to nothing, is not silently taken for no file.
    values = read_toml(path) if os.path.lexists(path) else {}
    for key in sorted(set(values) - set(DEFAULTS)):
        if key in Request.model_fields:
            raise ConfigError(
                f"{key}: belongs to one run, and this file states defaults of all",
                where=str(path),
                hint=f"State it on the command line or in a job file. Keys here: {', '.join(DEFAULTS)}.",
            )
        raise ConfigError(
            f"{key}: {unknown_key(key, DEFAULTS)}", where=str(path), hint=f"Known keys: {', '.join(DEFAULTS)}."
        )
    parse(Request, values, where=str(path))
    return values


def config_home(environ: Mapping[str, str]) -> Path:
    """Return the user's directory of profiles and defaults: `launcher` below XDG_CONFIG_HOME (~/.config)."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "~"), ".config")  # noqa: PTH118
    return Path(base).expanduser() / "launcher"


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`; tables of both are merged, lists are replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
