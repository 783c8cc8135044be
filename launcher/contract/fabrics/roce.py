"""RoCE: RDMA over Converged Ethernet, through NCCL's own transport.

Images of NGC since 26.06 select NVIDIA's plugin for Spectrum-X (NCCL_NET_PLUGIN=spcx). It is taken away: on other RoCE,
NVIDIA-NeMo/Megatron-Bridge pull request 5448 reports corrupted payloads of BF16 all-to-all with it, and OCI
(oracle-quickstart/oci-hpc b5285a6, playbooks/roles/nccl-conf) runs HPC-X's plugin or none. Spectrum-X is a fabric of
its own: spectrum_x.py.
"""

from . import net_ib
from .common import NOT_SOCKET
from .model import Device, Fabric, NetworkRequest, NetworkVariables


def _variables(request: NetworkRequest) -> NetworkVariables:
    if not request.presets_spcx:
        return NetworkVariables()
    return NetworkVariables((("NCCL_NET_PLUGIN", "none"),), "NCCL's own transport instead of spcx")


def _owns(device: Device) -> bool:
    return net_ib.has_link(device, "Ethernet")


FABRIC = Fabric(
    name="roce",
    title="RoCE",
    networks=NOT_SOCKET,
    judge=net_ib.judge,
    why_not=net_ib.why_not,
    variables=_variables,
    owns=_owns,
    log_rules=net_ib.LOG,
    lint_rules=net_ib.LINT,
    read_variables=net_ib.READ_VARIABLES,
    probe="ibstat",
    nsys_option="--nic-metrics",
)
