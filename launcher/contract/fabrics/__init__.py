"""Fabrics, the networks between nodes: one module for each, and their registry.

A new fabric is a module here, its line in FABRICS, a cluster profile, and its place in docs.

model       what a fabric is, and the values that its functions work on
common      causes that several share
efa         Amazon's EFA: libfabric and aws-ofi-nccl
net_ib      NCCL's own RDMA transport, which InfiniBand and RoCE share
infiniband  with SHARP
roce        RDMA over Converged Ethernet
ethernet    TCP
"""

from collections.abc import Mapping

from .efa import EFA
from .ethernet import ETHERNET
from .infiniband import INFINIBAND
from .model import Fabric
from .roce import ROCE

FABRICS: Mapping[str, Fabric] = {each.name: each for each in (EFA, INFINIBAND, ROCE, ETHERNET)}
"""All fabrics by name."""
