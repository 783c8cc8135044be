"""What of a request travels to a host: the user's files, the profile, and variables that are passed on by name."""

import base64
import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher.api.discover import add_job, recipe_and_code, required_recipe
from launcher.config.cluster import Cluster
from launcher.config.load import add_job_file, load_request
from launcher.config.request import Request
from launcher.discovery.host import HostContext
from launcher.discovery.recipe import Recipe, RecipeFile
from launcher.discovery.shipped_code import IGNORE
from launcher.planning.assignments import make_paths_absolute

_CODE = "code"
_PROGRAM = "entrypoint.py"
_OF_THIS_MACHINE = ("cluster", "run_root")
_USERS_FILES = ("recipe", "ship", "entrypoint")
_OF_EACH_MACHINE = frozenset(
    {"HOME", "PATH", "PWD", "USER", "LOGNAME", "SHELL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD"}
    | {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "SSH_AUTH_SOCK"}
)
"""Variables that have the host's own values there: the launcher on the host runs with them."""

_LOCAL_DIRECTORIES = ("mcore", "mlm_source", "nsys_from")


@dataclasses.dataclass(frozen=True)
class Package:
    """A request with all that belongs to it."""

    job: dict[str, Any]
    """The keys of the job file on the host; its paths are relative to the directory of the package."""
    profile: dict[str, Any]
    files: dict[str, bytes]
    environment: dict[str, str]
    """Variables that the request passes on by name, with the values of this shell: they are written to no file."""
    warnings: tuple[str, ...] = ()
    """What of the user's files does not travel, and other things to know before."""

    def archive(self) -> str:
        """Return the files as a tar archive in base64."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
            for name, content in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                tar.addfile(entry, io.BytesIO(content))
        return base64.b64encode(buffer.getvalue()).decode()

    def digest(self) -> str:
        """Return a digest of all that is written on the host: the same request has the same one."""
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        text = json.dumps({"job": self.job, "profile": self.profile, "files": sums}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def pack(asked: Request, cluster: Cluster, host: HostContext) -> Package:
    """Return the package of a request for the host of `cluster`.

    Raises ConfigError for what names a directory of this machine, a directory of runs or a variable that each machine
    has, RecipeError for a recipe that does not exist, is too large to travel or holds a secret.
    """
    stated, job = add_job(asked, host)
    request = load_request(stated, environ=host.environ, directory=host.directory, job=job)
    if "run_root" in stated or "run_root" in job:
        raise ConfigError(
            "the runs of this cluster are where its profile says",
            where="--run-root" if "run_root" in stated else "run_root of the job file",
            hint="Change run_root below [ssh] of the profile.",
        )
    for name in _LOCAL_DIRECTORIES:
        value = getattr(request, name)
        if value is not None and (host.directory / value.partition("@")[0]).is_dir():
            raise ConfigError(
                f"{value} is a directory of this machine, and the run is on {cluster.ssh.host if cluster.ssh else ''}",
                where=f"--{name.replace('_', '-')}",
                hint="Name a directory of that host from its root, or a commit.",
            )
    # Of a run that is continued the presets of this machine change nothing, as on the host itself.
    wanted = request.stated() if request.resume is None else add_job_file(stated, job)
    values = {name: value for name, value in wanted.items() if name not in _OF_THIS_MACHINE}
    files: dict[str, bytes] = {}
    warnings: tuple[str, ...] = ()
    if request.resume is None:
        found, warnings = _recipe(request, host, files)
        values = {name: value for name, value in values.items() if name not in _USERS_FILES} | found
    return Package(
        job=json.loads(json.dumps(values)),
        profile=_profile(cluster),
        files=files,
        environment=_passed_on(request, cluster, host.environ),
        warnings=warnings,
    )


def _recipe(request: Request, host: HostContext, files: dict[str, bytes]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keys of the recipe on the host and warnings, and add the user's files."""
    recipe, shipped, code = recipe_and_code(required_recipe(request, "submit"), request, host)
    found: dict[str, Any] = {}
    _require_paths_of_the_host(request, recipe, host)
    if request.entrypoint is not None:
        files[_PROGRAM] = Path(dict(code)["entrypoint.py"]).read_bytes()
        found["entrypoint"] = _PROGRAM
    if not isinstance(recipe, RecipeFile):
        return {**found, "recipe": request.recipe}, shipped.warnings
    for target, source in shipped.files:
        files[f"{_CODE}/{target}"] = Path(source).read_bytes()
    # Of a directory hidden files do not travel, nor those that .launcherignore names: here they did, so each is named.
    named = [target for target, _ in shipped.files if f"{_CODE}/{IGNORE}" in files or "/." in f"/{target}"]
    found |= {"recipe": f"{_CODE}/{recipe.path.name}:{recipe.function}"}
    return {**found, "ship": [_CODE, *(f"{_CODE}/{target}" for target in named)]}, shipped.warnings


def _require_paths_of_the_host(request: Request, recipe: Recipe, host: HostContext) -> None:
    """Raise ConfigError for an assignment that names a file or directory relative to the one here."""
    absolute = make_paths_absolute(request.assignments, recipe, host.directory)
    for given, found in zip(request.assignments, absolute, strict=True):
        key, _, value = given.partition("=")
        if given != found and not value.startswith("~"):
            raise ConfigError(
                f"{value} is a path of this machine, and the run is on another one",
                where=key,
                hint="Name the file or directory of that host from its root.",
            )


def _profile(cluster: Cluster) -> dict[str, Any]:
    """Return the profile as the host has it: merged with those that it extends, and without the way to the host."""
    values: dict[str, Any] = _stated(cluster.model_dump(exclude_defaults=True, exclude=("name", "extends", "ssh")))
    return values


def _stated(value: Any) -> Any:
    """Return tables without their empty values, which TOML cannot write."""
    if not isinstance(value, dict):
        return value
    return {key: _stated(each) for key, each in value.items() if each is not None}


def _passed_on(request: Request, cluster: Cluster, environ: Mapping[str, str]) -> dict[str, str]:
    names = {entry for entry in request.env if "=" not in entry} | set(cluster.inherit)
    names |= {request.notify_url} if request.notify_url else set()
    if wrong := sorted({entry for entry in request.env if entry in _OF_EACH_MACHINE}):
        raise ConfigError(
            f"{wrong[0]} of this machine has no meaning on {cluster.ssh.host if cluster.ssh else 'the host'}",
            where="--env",
            hint=f"State a value: --env {wrong[0]}=VALUE, or list it in `inherit` of the profile for the host's own.",
        )
    names -= _OF_EACH_MACHINE
    return {name: environ[name] for name in sorted(names) if name in environ}
