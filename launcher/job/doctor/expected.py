"""What a node should be like, as the cluster's profile says; it reaches the job as text in `argv.json`."""

import json
from dataclasses import dataclass, fields
from typing import Any, Optional

from ...contract.fabrics import FABRICS
from ...contract.fabrics.model import Fabric
from ..errors import UserError


@dataclass(frozen=True)
class Expected:
    """The profile's values that the nodes are compared with; None where it says nothing."""

    device: str = "auto"
    gpu: Optional[str] = None
    fabric: Optional[str] = None
    nics_per_node: Optional[int] = None
    nvlink_domain_nodes: int = 1
    mpi: Optional[str] = None
    runtime: str = ""
    """The name of the runtime that the ranks run in."""
    container: bool = False
    """Whether that is a container."""
    scratch: Optional[str] = None
    directories: tuple[str, ...] = ()
    """Directories that every node should see the same content in: what the profile mounts, by their names here."""
    read_only: tuple[str, ...] = ()
    """Those of them into which nothing is to be written."""
    matmul_tflops: Optional[float] = None
    all_reduce_node_gbs: Optional[float] = None
    all_reduce_gbs: Optional[float] = None
    torch: bool = True
    """Whether the checks that need torch are wanted."""
    patience_s: float = 60.0
    """How long the first node waits for the others."""

    @property
    def network(self) -> Optional[Fabric]:
        """The fabric between the nodes; None where the profile says nothing."""
        return FABRICS.get(self.fabric or "")


def parse(text: str) -> Expected:
    """Read what the launcher wrote. Raises UserError for anything else."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"what is expected of the nodes is no JSON: {error}") from None
    known = {field.name for field in fields(Expected)}
    if not isinstance(values, dict) or set(values) - known:
        raise UserError(f"what is expected of the nodes has unknown keys (known: {', '.join(sorted(known))})")
    return Expected(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
