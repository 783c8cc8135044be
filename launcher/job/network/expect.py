"""The expectation of the network: argv.json's `options.network`."""

from collections.abc import Mapping
from typing import Any

from ...contract.fabrics import FABRICS
from ...contract.fabrics.verdict import Expectation
from ..errors import UserError

POLICIES = ("require", "warn")


def read(settings: Mapping[str, Any]) -> Expectation:
    """Parse `options.network`. Raises UserError for anything but an expectation."""
    lacking = [name for name in ("policy", "fabric", "nodes", "ranks_per_node") if name not in settings]
    if lacking:
        raise UserError(f"options.network lacks {', '.join(lacking)}", where="argv.json")
    for name, known in (("policy", POLICIES), ("fabric", FABRICS)):
        if settings[name] not in known:
            raise UserError(
                f"options.network.{name} is {settings[name]!r}, not one of {', '.join(known)}", where="argv.json"
            )
    nics = settings.get("nics_per_node")
    return Expectation(
        policy=str(settings["policy"]),
        fabric=str(settings["fabric"]),
        nodes=int(settings["nodes"]),
        ranks_per_node=int(settings["ranks_per_node"]),
        nvlink_domain=bool(settings.get("nvlink_domain")),
        nics_per_node=None if nics is None else int(nics),
        gdr=bool(settings.get("gdr", True)),
        sharp=bool(settings.get("sharp")),
    )
