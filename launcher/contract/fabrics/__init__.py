"""Fabrics, the networks between nodes: one module for each, and their registry.

A new fabric is a module here with a `FABRIC`, its name in NAMES, a cluster profile, and its place in docs.

model       what a fabric is, and what a plan asks it for
verdict     what the job compares: NCCL's log, the expectation, the verdict
common      GPUDirect RDMA, and causes that several share
ofi         libfabric and aws-ofi-nccl, which EFA and Slingshot share
efa         Amazon's EFA
net_ib      NCCL's own RDMA transport, which InfiniBand, RoCE and Spectrum-X share
infiniband  with SHARP
roce        RDMA over Converged Ethernet
spectrum_x  RoCE on NVIDIA's Spectrum-X
gib         Google's gIB: RoCE with a plugin of Google's
fastrak     Google's GPUDirect-TCPXO (FasTrak): TCP with a plugin of Google's
slingshot   HPE's Slingshot: libfabric's provider cxi
ethernet    TCP
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .model import Fabric

NAMES = ("efa", "infiniband", "roce", "spectrum-x", "gib", "fastrak", "slingshot", "ethernet")


class _Registry(Mapping[str, "Fabric"]):
    """The fabrics by name; a module is imported once its fabric is asked for."""

    def __getitem__(self, name: str) -> "Fabric":
        if name not in NAMES:
            raise KeyError(name)
        return cast("Fabric", importlib.import_module(f".{name.replace('-', '_')}", __name__).FABRIC)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


FABRICS: Mapping[str, "Fabric"] = _Registry()
"""All fabrics by name."""
