"""Where profiles and configuration files are, and which value wins.

The first hit counts: option, `LAUNCHER_*` variable, `launcher.toml` of the directory, `~/.config/launcher/config.toml`,
job file, cluster profile.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from launcher._util.errors import SpecError
from launcher._util.resources import resource
from launcher.config.cluster import Cluster
from launcher.config.request import Request

# What a variable or a configuration file may preset; the rest is said for each run.
_DEFAULTS = ("cluster", "account", "partition", "qos", "time_limit", "image", "runtime", "run_root", "shared")


def cluster_directories(environ: Mapping[str, str]) -> list[Path]:
    """Directories of profiles, the first that holds a name wins."""
    own = [Path(environ["LAUNCHER_CLUSTERS"])] if environ.get("LAUNCHER_CLUSTERS") else []
    return [*own, config_home(environ) / "clusters", resource("configs/clusters")]


def cluster_names(environ: Mapping[str, str]) -> dict[str, Path]:
    """Every profile's name with the file that it comes from."""
    found: dict[str, Path] = {}
    for directory in cluster_directories(environ):
        for path in sorted(directory.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def load_cluster(name: str, environ: Mapping[str, str]) -> Cluster:
    """The profile called `name`, with what it extends. Raises SpecError."""
    chain = cluster_chain(name, environ)
    merged: dict[str, Any] = {}
    for _, path in reversed(chain):
        values = read_toml(path)
        unset = unset_keys(values, where=str(path))
        merged = _merge(_without(merged, unset, where=str(path)), {k: v for k, v in values.items() if k != "unset"})
    return parse(Cluster, {**merged, "name": name}, where=str(chain[0][1]))


def cluster_chain(name: str, environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    """The profile called `name` and those that it extends, itself first, each with its file. Raises SpecError."""
    names = cluster_names(environ)
    chain: list[tuple[str, Path]] = []
    wanted: str | None = name
    while wanted is not None:
        seen = [each for each, _ in chain]
        if wanted in seen:
            raise SpecError(f"profiles extend each other in a circle: {' -> '.join([*seen, wanted])}")
        if wanted not in names:
            raise SpecError(
                f"there is no cluster profile {wanted!r}",
                hint=f"Known profiles: {', '.join(sorted(names))}. Directories: "
                f"{', '.join(str(path) for path in cluster_directories(environ))}.",
            )
        chain.append((wanted, names[wanted]))
        wanted = read_toml(names[wanted]).get("extends")
    return chain


def unset_keys(values: Mapping[str, Any], *, where: str) -> tuple[str, ...]:
    """Keys, tables with a dot, that a profile does not take from what it extends. Raises SpecError."""
    unset = values.get("unset", [])
    if not isinstance(unset, list) or not all(isinstance(key, str) for key in unset):
        raise SpecError("unset is a list of keys that the extended profile sets", where=where, hint='["env.NAME"]')
    return tuple(unset)


def _without(values: Mapping[str, Any], keys: Iterable[str], *, where: str) -> dict[str, Any]:
    """The values without these keys. Raises SpecError for one that is not there: it would be a misspelt one."""
    left = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key in keys:
        table, _, name = key.rpartition(".")
        inner = left.get(table) if table else left
        if not isinstance(inner, dict) or name not in inner:
            raise SpecError(f"unset names {key!r}, which the extended profile does not set", where=where)
        del inner[name]
    return left


def load_request(
    options: Mapping[str, Any], *, environ: Mapping[str, str], directory: Path, job_file: Path | None = None
) -> Request:
    """Layer everything that is said of a run. `options` are those given on the command line. Raises SpecError."""
    job = _job(job_file) if job_file else {}
    layers = [
        ({name: environ[variable] for name in _DEFAULTS if environ.get(variable := f"LAUNCHER_{name.upper()}")}, None),
        (_defaults(directory / "launcher.toml"), directory / "launcher.toml"),
        (_defaults(config_home(environ) / "config.toml"), config_home(environ) / "config.toml"),
        (job, job_file),
    ]
    merged = dict(options)
    for values, path in layers:
        if path is not None and values:
            parse(Request, values, where=str(path))
        for key, value in values.items():
            merged.setdefault(key, value)
    # What a job file and the command line both list adds up, the command line's last and thus strongest.
    for key in ("assignments", "env", "mounts", "srun_args"):
        if key in options and key in job:
            merged[key] = (*job[key], *options[key])
    return parse(Request, merged, where="the request")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises SpecError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {error}", where=str(path)) from error


def parse[Model: BaseModel](model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Validate `values`. Raises SpecError that names each wrong key and, for an unknown one, the known ones."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SpecError(_sentences(model, error), where=where) from None


def _sentences(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"] if part not in ("bool", "int", "str", "key", "[key]"))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; known are {', '.join(sorted(model.model_fields))}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}")
    return "; ".join(dict.fromkeys(lines))


def _defaults(path: Path) -> dict[str, Any]:
    values = read_toml(path) if path.is_file() else {}
    unknown = sorted(set(values) - set(_DEFAULTS))
    if unknown:
        raise SpecError(
            f"{unknown[0]}: unknown key; known are {', '.join(_DEFAULTS)}",
            where=str(path),
            hint="What belongs to one run is said on the command line or in a job file.",
        )
    return values


def _job(path: Path) -> dict[str, Any]:
    values = read_toml(path)
    recipe = values.get("recipe")
    if isinstance(recipe, str) and not recipe.startswith("bridge:"):
        # A job file says where its recipe is as seen from itself.
        values["recipe"] = str(path.parent / recipe)
    return values


def config_home(environ: Mapping[str, str]) -> Path:
    """The user's directory of profiles and defaults: ~/.config/launcher, or as XDG_CONFIG_HOME says."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "~"), ".config")  # noqa: PTH118
    return Path(base).expanduser() / "launcher"


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
