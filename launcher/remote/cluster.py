"""Whether a command is about a cluster that this machine reaches by ssh. Every command asks, so little is loaded."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from launcher.contract.frozen import dataclass

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster, Ssh
    from launcher.config.request import Request
    from launcher.discovery.host import HostContext


@dataclass(frozen=True)
class RemoteCluster:
    """A cluster that this machine reaches by ssh."""

    cluster: "Cluster"
    host: "HostContext"
    ssh: "Ssh"

    @property
    def run_root(self) -> str:
        """Return the directory of runs on the host; a relative one begins at the home directory there."""
        return self.ssh.run_root or self.cluster.run_root or "runs"


def elsewhere(name: str | None, runs: Iterable[str] = ()) -> RemoteCluster | None:
    """Return the cluster where it is reached by ssh, else None. Raises ConfigError.

    Without a `name` it is that of LAUNCHER_CLUSTER, or of the configuration files, unless one of `runs` is a directory
    of a run on this machine, such as a copy.
    """
    if name is None and not os.environ.get("LAUNCHER_CLUSTER") and not _has_defaults():
        return None
    if name is None:
        from launcher.rundir.finding import run_at

        if any(run_at(each) is not None for each in runs):
            return None
    from launcher.api.locate import find_cluster
    from launcher.planning.backend_choice import is_elsewhere

    cluster, host = find_cluster(name, elsewhere=True)
    if cluster.ssh is None or not is_elsewhere(cluster, host):
        return None
    return RemoteCluster(cluster, host, cluster.ssh)


def elsewhere_of(asked: "Request") -> RemoteCluster | None:
    """Return the cluster of a request where it is reached by ssh, else None. Its job file may name it.

    Raises RequestError.
    """
    if asked.cluster is not None or not str(asked.recipe).endswith(".toml"):
        return elsewhere(asked.cluster)
    from launcher.api.discover import add_job
    from launcher.config.load import load_request
    from launcher.discovery.host import detect_host

    host = detect_host()
    stated, job = add_job(asked, host)
    request = load_request(stated, environ=host.environ, directory=host.directory, job=job)
    return elsewhere(request.cluster)


def _has_defaults() -> bool:
    """Return whether there is a configuration file (launcher/config/load.py), which need not be read otherwise."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return any(map(os.path.exists, ("launcher.toml", f"{home}/launcher/config.toml")))
