"""What is expected of the network: argv.json's `options.network`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ..errors import UserError

POLICIES = ("require", "warn")
FABRICS = ("efa", "infiniband", "roce", "ethernet")


@dataclass(frozen=True)
class Expectation:
    """What the cluster profile says of the network between the ranks of a run."""

    policy: str
    """`require`: a run with a worse network ends; `warn`: it is told so and goes on."""
    fabric: str
    nodes: int
    ranks_per_node: int
    nvlink_domain: bool = False
    """Whether NVLink reaches beyond a node (GB200 NVL72 and the like)."""
    nics_per_node: Optional[int] = None

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nodes * self.ranks_per_node


def read(settings: Mapping[str, Any]) -> Expectation:
    """The expectation in `options.network`. Raises UserError for anything else in its place."""
    lacking = [name for name in ("policy", "fabric", "nodes", "ranks_per_node") if name not in settings]
    if lacking:
        raise UserError(f"options.network lacks {', '.join(lacking)}", where="argv.json")
    for name, known in (("policy", POLICIES), ("fabric", FABRICS)):
        if settings[name] not in known:
            raise UserError(
                f"options.network.{name} is {settings[name]!r}, none of {', '.join(known)}", where="argv.json"
            )
    nics = settings.get("nics_per_node")
    return Expectation(
        policy=str(settings["policy"]),
        fabric=str(settings["fabric"]),
        nodes=int(settings["nodes"]),
        ranks_per_node=int(settings["ranks_per_node"]),
        nvlink_domain=bool(settings.get("nvlink_domain")),
        nics_per_node=None if nics is None else int(nics),
    )
