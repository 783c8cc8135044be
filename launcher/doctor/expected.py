"""Expected values for the node checks: from the profile to the text that the program in the job reads."""

import json
from collections.abc import Sequence
from typing import Any

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.doctor.inputs import Input, compared
from launcher.planning.container import chosen_runtime


def expected_values(
    cluster: Cluster, request: Request, *, torch: bool, rendezvous_timeout_s: float, inputs: Sequence[Input] = ()
) -> str:
    """Return the argument `expected` of launcher/job/doctor/entry/doctor.py, as JSON."""
    runtime = chosen_runtime(request, cluster)
    known = compared(inputs)
    shared, read_only = directories((*cluster.mounts, *request.mounts), inside=runtime.is_container)
    values: dict[str, Any] = {
        "device": cluster.device,
        "gpu": cluster.gpu,
        "fabric": cluster.fabric,
        "nics_per_node": cluster.nics_per_node,
        "gdr": cluster.gdr,
        "nvlink_domain_nodes": cluster.nvlink_domain_nodes,
        "mpi": cluster.mpi,
        "runtime": runtime.name,
        "container": runtime.is_container,
        "scratch": cluster.scratch,
        "directories": shared,
        "read_only": read_only,
        **cluster.expect.model_dump(),
        "inputs": [each.to_dict() for each in known],
        "inputs_left_out": len(inputs) - len(known),
        "torch": torch,
        "rendezvous_timeout_s": rendezvous_timeout_s,
    }
    return json.dumps(values)


def directories(mounts: tuple[str, ...], *, inside: bool) -> tuple[list[str], list[str]]:
    """Return the directories that all nodes should see, and those of them that are read-only.

    Paths are those inside the container if `inside` is true, else those on the host.
    """
    shared, read_only = [], []
    for mount in mounts:
        source, _, rest = mount.partition(":")
        target, _, mode = rest.partition(":")
        path = (target if target not in ("", "ro", "rw") else source) if inside else source
        shared.append(path)
        if "ro" in (target, mode):
            read_only.append(path)
    return shared, read_only
