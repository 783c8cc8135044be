"""Where commands find runs, cluster profiles and image stores: as `launcher run`, called here, would."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.user_paths import require_directory
from launcher.rundir import RunDirectory

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.discovery.host import HostContext
    from launcher.images.store.store import Store


def find_run_root(run_root: str | None = None, cluster: str | None = None) -> Path:
    """Return the directory of the runs that `run` and `submit` make here with the same `run_root` and `cluster`.

    Raises ConfigError.
    """
    from launcher.config.load import load_cluster, load_request
    from launcher.discovery.host import detect_host
    from launcher.planning import backend_choice, run_paths

    host = detect_host()
    options = {"run_root": run_root, "cluster": cluster}
    stated = {name: value for name, value in options.items() if value}
    request = load_request(stated, environ=host.environ, directory=host.directory)
    profile = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
    root = run_paths.run_root(request, profile, host)
    require_directory(root, "--run-root" if run_root else "the run root")
    return root


def find_run(name: str, run_root: str | None = None, cluster: str | None = None) -> RunDirectory:
    """Return the run that `name` means: a directory, a name's newest run, a run id or its beginning, or a job's number.

    Without `run_root` the user's other run roots are searched, too. Raises RequestError.
    """
    from launcher.rundir import finding, registry

    # A directory needs no configuration, which takes most of the time.
    if (run := finding.run_at(name)) is not None:
        return run
    return finding.find_run(
        name, find_run_root(run_root, cluster), [] if run_root else registry.known_roots(os.environ)
    )


def find_cluster(name: str | None = None, *, elsewhere: bool = False) -> "tuple[Cluster, HostContext]":
    """Return the cluster profile that `run` would take here, or the one that is named. Raises ConfigError.

    Raises PrerequisiteError for a cluster that this machine reaches by ssh, unless `elsewhere`: the profile's paths are
    those of its host, and the Slurm here is another one.
    """
    from launcher.config.load import load_cluster, load_request
    from launcher.discovery.host import detect_host
    from launcher.planning import backend_choice

    host = detect_host()
    stated = {"cluster": name} if name else {}
    request = load_request(stated, environ=host.environ, directory=host.directory)
    cluster = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
    if not elsewhere:
        backend_choice.refuse_elsewhere(cluster, host)
    return cluster, host


def find_image_store(cluster: str | None = None) -> "Store":
    """Return the image store of that profile. Raises ConfigError."""
    from launcher.discovery.image import image_store

    found, host = find_cluster(cluster)
    return image_store(found, host.environ)
