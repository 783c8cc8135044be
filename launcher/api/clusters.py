"""Cluster profiles: the known ones, one with the origin of each value, a first one of the live cluster."""

import os
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import ConfigError, DiskError
from launcher._util.resources import resource
from launcher._util.user_paths import exists, user_path
from launcher.config.cluster import Cluster
from launcher.config.load import cluster_chain, cluster_names, config_home, load_cluster
from launcher.config.origins import Origin, origins


@dataclass(frozen=True)
class ListedCluster:
    """One cluster profile."""

    name: str
    cluster: Cluster
    file: Path
    own: bool
    """Whether it is the user's own; else it ships with the launcher."""


@dataclass(frozen=True)
class WrongCluster:
    """A cluster profile that cannot be used."""

    name: str
    file: Path
    error: ConfigError


@dataclass(frozen=True)
class ClusterDetails:
    """A cluster profile with the origin of each value."""

    cluster: Cluster
    chain: tuple[tuple[str, Path], ...]
    """Its name and file, then those of the profiles that it extends."""
    origins: tuple[Origin, ...]

    @property
    def of_a_site(self) -> bool:
        """Return whether its fabric is stated by a profile that ships: those were read from sources, and not tried."""
        shipped = resource("configs/clusters")
        return any(each.key == ("fabric",) and each.stated.file.parent == shipped for each in self.origins)


@dataclass(frozen=True)
class ProbedCluster:
    """A first profile of the live cluster."""

    text: str
    partition: str
    file: Path | None
    """Where it was written."""
    refused: str | None = None
    """Slurm's words where it accepts not even a plain job, so that no option could be tried."""


def known_cluster_names() -> list[str]:
    """Return the names of all profiles, sorted."""
    return sorted(cluster_names(os.environ))


def list_clusters() -> tuple[tuple[ListedCluster, ...], tuple[WrongCluster, ...]]:
    """Return all profiles by name, and those that are wrong."""
    shipped = resource("configs/clusters")
    found, wrong = list[ListedCluster](), list[WrongCluster]()
    for name, path in sorted(cluster_names(os.environ).items()):
        try:
            found.append(ListedCluster(name, load_cluster(name, os.environ), path, path.parent != shipped))
        except ConfigError as error:
            wrong.append(WrongCluster(name, path, error))
    return tuple(found), tuple(wrong)


def show_cluster(name: str) -> ClusterDetails:
    """Return one profile with the origin of each value. Raises ConfigError."""
    cluster = load_cluster(name, os.environ)
    return ClusterDetails(cluster, tuple(cluster_chain(name, os.environ)), origins(name, os.environ))


def probe_cluster(
    *,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    name: str | None = None,
    output: Path | None = None,
) -> ProbedCluster:
    """Return a first profile of the cluster whose login node this is, and write it to `output`, a new file.

    `partition` is the one to describe (default: Slurm's); `account` and `qos` are those of the jobs that sbatch is
    asked about, and are kept in the profile. Raises ConfigError, SlurmError, DiskError.
    """
    from launcher._util.shell import LocalShell
    from launcher.discovery.cluster_probe import write_profile
    from launcher.slurm import probe

    target = _target(output)
    asked = {key: value for key, value in (("account", account), ("qos", qos)) if value is not None}
    found = probe.probe_cluster(LocalShell(), partition, asked)
    text = write_profile(found, name)
    if target is not None:
        _write(target, text)
    refused = found.baseline.words if found.baseline is not None and found.baseline.accepted is False else None
    return ProbedCluster(text, found.partition, target, refused)


def own_cluster_file(name: str) -> Path:
    """Return the file in which the user's own profile of that name is looked for."""
    return config_home(os.environ) / "clusters" / f"{name}.toml"


def _target(output: Path | None) -> Path | None:
    """Return the file to write, checked before anything is asked."""
    if output is None:
        return None
    target = user_path(str(output), Path.cwd(), where="--output")
    if target.suffix != ".toml" or target.name == ".toml":
        raise ConfigError(
            f"{output} is not the name of a profile's file", where="--output", hint="It ends in .toml: mine.toml."
        )
    if exists(target):
        raise ConfigError(f"{target} is there already", where="--output", hint="Move it away, or choose another name.")
    return target


def _write(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DiskError(f"cannot be written: {error.strerror}", where=str(target)) from error
