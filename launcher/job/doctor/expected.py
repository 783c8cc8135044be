"""The cluster profile's values for a node; they reach the job as text in `argv.json`."""

import json
from dataclasses import dataclass, fields
from typing import Any, Optional

from ...contract.fabrics import FABRICS
from ...contract.fabrics.model import Fabric
from ..errors import UserError


@dataclass(frozen=True)
class Expected:
    """Values that the nodes are compared with; None where the profile has none."""

    device: str = "auto"
    gpu: Optional[str] = None
    fabric: Optional[str] = None
    nics_per_node: Optional[int] = None
    gdr: bool = True
    """Whether adapters are expected to reach the memory of GPUs."""
    nvlink_domain_nodes: int = 1
    mpi: Optional[str] = None
    runtime: str = ""
    """Name of the runtime that the ranks run in."""
    container: bool = False
    """Whether that runtime uses a container."""
    scratch: Optional[str] = None
    directories: tuple[str, ...] = ()
    """Directories that should have the same content on every node: what the profile mounts, by the names in the job."""
    read_only: tuple[str, ...] = ()
    """Those directories that must not be written to."""
    inputs: tuple[Any, ...] = ()
    """What the recipe reads: key, path in the job, and what the login node sees there (inputs.py)."""
    inputs_left_out: int = 0
    """How many further ones are not compared."""
    matmul_tflops: Optional[float] = None
    all_reduce_node_gbs: Optional[float] = None
    all_reduce_gbs: Optional[float] = None
    torch: bool = True
    """Whether to run the checks that need torch."""
    rendezvous_timeout_s: float = 60.0
    """How long the first node waits for the others."""

    @property
    def network(self) -> Optional[Fabric]:
        """Return the fabric between the nodes; None where the profile has none."""
        return FABRICS.get(self.fabric or "")


def parse(text: str) -> Expected:
    """Return the values that the launcher wrote. Raises UserError for anything else."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"argument `expected` is not JSON: {error}") from None
    known = {field.name for field in fields(Expected)}
    if not isinstance(values, dict) or set(values) - known:
        raise UserError(f"argument `expected` has unknown keys (known: {', '.join(sorted(known))})")
    return Expected(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
