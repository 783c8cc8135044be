"""The cluster profile of a CloudAI system: what its file states, on top of one of the launcher's own profiles."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher.cloudai import flags
from launcher.cloudai.cmd_args import Note
from launcher.cloudai.environment import Environment
from launcher.cloudai.models import System
from launcher.config.load import load_cluster
from launcher.discovery.image import image_store
from launcher.planning.slurm_options import MANAGED
from launcher.runtimes import AUTOMATIC, RUNTIMES

BASE = "slurm"
"""The profile that a system's is based on where none is named."""

RUNTIME = "pyxis"
"""How CloudAI's jobs enter their images."""


@dataclass(frozen=True)
class Profile:
    """A profile's values, as its file states them."""

    name: str
    values: Mapping[str, Any]
    is_container: bool
    allow_vboost: bool = False
    """Whether the profile below lets runs change the GPUs' clocks."""
    device: str = "gpu"
    """What its ranks compute on."""
    notes: tuple[Note, ...] = ()

    @property
    def file_name(self) -> str:
        """Return the file's name; a profile with other values lies in another directory."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        return f"{digest}/{self.name}.toml"

    @property
    def text(self) -> str:
        """Return the file's content."""
        return toml_text(self.values)

    def image_file(self, image: str) -> str:
        """Return the file of an image where it is in the store or in CloudAI's cache, else its reference."""
        from launcher.images.reference import looks_like_path, parse_reference
        from launcher.images.store.store import find_file

        if looks_like_path(image):
            path = Path(image).expanduser()
            return str(path.absolute()) if path.exists() else image
        directories = [Path(each) for each in (*self.values["image_directories"], self.values["image_store"])]
        found = find_file(directories, parse_reference(image))
        return image if found is None else str(found)

    def with_retries(self, retries: int | None) -> "Profile":
        """Return the profile of a run that is started again so many times without progress."""
        if not retries:
            return self
        return replace(self, values={**self.values, "retry": {"without_progress": min(retries + 1, 100)}})


def profile_of(system: System, base: str | None, environment: Environment, *, container: bool) -> Profile:
    """Return the profile of a system. `base` names one of the launcher's; `container` says whether tests name an image.

    Raises ConfigError for a base that does not exist.
    """
    below = load_cluster(base or BASE, os.environ)
    runtime = below.runtime if base else RUNTIME if container else below.runtime
    is_container = container if runtime == AUTOMATIC else RUNTIMES[runtime].is_container
    stated = system.model_fields_set
    directives, notes = _directives(system)
    values: dict[str, Any] = {
        "description": f"CloudAI's system {system.name}",
        "extends": base or BASE,
        "runtime": runtime,
        "partition": system.default_partition,
        "account": system.account,
        "gpus_per_node": system.gpus_per_node,
        "mpi": system.mpi if "mpi" in stated and system.mpi != "pmix" else None,
        # One store for all systems: it is that of the profile below, in which `install` imports.
        "image_store": str(image_store(below, os.environ).root),
        "image_directories": [*below.image_directories, str(system.install_path.absolute())],
        "directives": directives,
        "host_env": dict(environment.host),
    }
    # A system may have the name of the profile that it is based on.
    name = f"cloudai-{re.sub(r'[^A-Za-z0-9._-]+', '-', system.name).strip('-.')}"
    kept = {key: value for key, value in values.items() if value not in (None, {}, [])}
    notes += _without_effect(system)
    return Profile(name, kept, is_container, allow_vboost=below.allow_vboost, device=below.device, notes=tuple(notes))


def _directives(system: System) -> tuple[dict[str, bool | int | str], list[Note]]:
    found: dict[str, bool | int | str] = {}
    notes = list[Note]()
    if system.distribution:
        found["distribution"] = system.distribution
    texts = [("extra_sbatch_args", text) for text in system.extra_sbatch_args]
    texts += [("extra_srun_args", system.extra_srun_args)] if system.extra_srun_args else []
    for field, text in texts:
        for parameter in flags.slurm_parameters([text]):
            key, given, value = parameter.partition("=")
            if key in MANAGED:
                notes.append(Note(f"system.{field}", f"--{key} has no effect: {MANAGED[key]}"))
            else:
                found[key] = value if given else True
    return found, notes


_NO_EFFECT = {
    "monitor_interval": "no process polls the jobs",
    "ntasks_per_node": "one rank is started for each GPU",
    "cache_docker_images_locally": "images are always imported once, into the store",
    "extra_transient_status_errors": "an unanswered question to Slurm is never taken for an end",
    "status_retry_pause_seconds": "an unanswered question to Slurm is never taken for an end",
    "container_mount_home": "containers get the directories that are mounted by name",
    "data_repository": "results are not uploaded",
    "hf_home_path": "set HF_HOME in global_env_vars, as CloudAI needs it for MegatronBridge, too",
}


def _without_effect(system: System) -> list[Note]:
    return [
        Note(f"system.{name}", f"has no effect: {reason}", "info")
        for name, reason in _NO_EFFECT.items()
        if name in system.model_fields_set
    ]


def toml_text(values: Mapping[str, Any]) -> str:
    """Return values as a TOML file. Raises ConfigError for what TOML cannot hold."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.dumps(dict(values))
    except (TOMLKitError, TypeError, ValueError) as error:
        raise ConfigError(f"cannot be written as TOML: {error}") from None
