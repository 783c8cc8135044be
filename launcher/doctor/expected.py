"""What the nodes are to be compared with: from the profile to the text that the program in the job reads."""

import json
from typing import Any

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.runtimes import RUNTIMES


def text(cluster: Cluster, request: Request, *, torch: bool, patience_s: float) -> str:
    """The argument `expected` of launcher/job/doctor/entry/doctor.py."""
    runtime = RUNTIMES[request.runtime or cluster.runtime]
    places, read_only = directories((*cluster.mounts, *request.mounts), inside=runtime.is_container)
    values: dict[str, Any] = {
        "device": cluster.device,
        "gpu": cluster.gpu,
        "fabric": cluster.fabric,
        "nics_per_node": cluster.nics_per_node,
        "nvlink_domain_nodes": cluster.nvlink_domain_nodes,
        "mpi": cluster.mpi,
        "runtime": runtime.name,
        "container": runtime.is_container,
        "scratch": cluster.scratch,
        "directories": places,
        "read_only": read_only,
        **cluster.expect.model_dump(),
        "torch": torch,
        "rendezvous_timeout_s": patience_s,
    }
    return json.dumps(values)


def directories(mounts: tuple[str, ...], *, inside: bool) -> tuple[list[str], list[str]]:
    """Directories that all nodes should see, by their names where the ranks run, and those that are read-only."""
    places, read_only = [], []
    for mount in mounts:
        source, _, rest = mount.partition(":")
        target, _, mode = rest.partition(":")
        place = (target if target not in ("", "ro", "rw") else source) if inside else source
        places.append(place)
        if "ro" in (target, mode):
            read_only.append(place)
    return places, read_only
