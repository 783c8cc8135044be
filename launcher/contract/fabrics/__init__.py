"""Fabrics, the networks between nodes: one module for each, and their registry.

A new fabric is a module here with a `FABRIC`, its name in NAMES, a cluster profile, and its place in docs.

model       what a fabric is, and what a plan asks it for
verdict     what the job compares: NCCL's log, the expectation, the verdict
common      causes that several share
efa         Amazon's EFA: libfabric and aws-ofi-nccl
net_ib      NCCL's own RDMA transport, which InfiniBand and RoCE share
infiniband  with SHARP
roce        RDMA over Converged Ethernet
ethernet    TCP
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .model import Fabric

NAMES = ("efa", "infiniband", "roce", "ethernet")


class _Registry(Mapping[str, "Fabric"]):
    """The fabrics by name; a module is imported once its fabric is asked for."""

    def __getitem__(self, name: str) -> "Fabric":
        if name not in NAMES:
            raise KeyError(name)
        return cast("Fabric", importlib.import_module(f".{name}", __name__).FABRIC)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


FABRICS: Mapping[str, "Fabric"] = _Registry()
"""All fabrics by name."""
