"""What several fabrics share: names of networks, GPUDirect RDMA, and causes that do not depend on the transport.

GPUDirect RDMA: NCCL says for each adapter whether its driver can reach the memory of GPUs (NVIDIA/nccl 5067397,
src/graph/topo.cc; before 2.8 in src/transport/net.cc for each pair of GPU and adapter), and for each connection
whether it does (`/GDRDMA`). Causes: NVIDIA/nccl issues 1537, 1510, 1939 (the kernel and nvidia_peermem), 1392, 489
(ACS, IOMMU), 1676 (NCCL up to 2.22 and nvidia_peermem);
https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html.
"""

import re
from collections.abc import Iterator
from typing import Optional

from .model import NetworkRequest, NetworkVariables
from .verdict import MOST, Cause, Expectation, NodeView, Selection, Verdict, bad

NOT_SOCKET = r"(?!(fast)?socket$).*"
"""Names of all of NCCL's networks but TCP: its own, and Google's plugin FastSocket (NVIDIA/nccl issue 1519)."""

OFI = r".*(libfabric|(?<![a-z])ofi(?![a-z])).*"
"""Names of aws-ofi-nccl: Libfabric, AWS Libfabric, OFI, .../ofi-nccl/lib/libnccl-net.so."""

_KNOWS_NVIDIA_PEERMEM = (2, 23)
_OFF = ("0", "LOC")


def is_socket(network: str) -> bool:
    """Whether NCCL's network of this name is TCP."""
    return re.fullmatch(NOT_SOCKET, network, re.IGNORECASE) is None


def is_ofi(name: str) -> bool:
    """Whether this names aws-ofi-nccl."""
    return re.fullmatch(OFI, name, re.IGNORECASE) is not None


def asked_for(view: NodeView) -> Iterator[Cause]:
    """Yield the cause where the environment selects TCP."""
    if is_socket(view.environment.get("NCCL_NET", "")):
        yield Cause("NCCL_NET=Socket asks for it")


def google_plugin(network: str, request: NetworkRequest) -> NetworkVariables:
    """Insist on Google's plugin of this name where a run must not go on without it.

    The image's own choice of a plugin is removed.
    """
    unset = ("NCCL_NET_PLUGIN",) if "NCCL_NET_PLUGIN" in request.image_environment else ()
    if request.nodes == 1 or request.policy != "require":
        return NetworkVariables(unset=unset)
    return NetworkVariables((("NCCL_NET", network),), f"NCCL_NET={network}", unset=unset)


def why_fewer(variable: str, view: NodeView) -> Cause:
    """Return why there are fewer devices than the node has; `variable` names the devices to use."""
    if view.environment.get(variable):
        return Cause(f"{variable}={view.environment[variable]} names those")
    return Cause("a link is down, or the container does not see all of /dev/infiniband")


def without_gdr(selection: Selection, expected: Expectation, view: NodeView) -> Optional[Verdict]:
    """Return the verdict on adapters that do not reach the memory of GPUs, where they should; None otherwise."""
    if not expected.gdr:
        return None
    on, off = (_of_networks(devices, selection) for devices in (selection.gdr_on, selection.gdr_off))
    if off:
        some = f" for {len(off)} of {len(on) + len(off)} adapters" if on else ""
        what = f"GPUDirect RDMA is off{some} ({', '.join(off)}): data passes through the memory of the host"
        return bad(what, next(_no_driver(selection, view)), selection.line("gdr_off"))
    nets = [each for each in selection.transports if each.startswith("NET/") and not is_socket(each.split("/")[1])]
    if nets and not uses_gdr(selection):
        what = (
            f"NCCL's connections ({', '.join(nets)}) do without GPUDirect RDMA: data passes through the host's memory"
        )
        return bad(what, next(_too_far(view)), selection.line("gdr_far", "net_plain"))
    without = _processes_without(selection)
    if nets and without:
        total = len(without) + len(selection.direct_processes)
        what = (
            f"the connections of {len(without)} of {total} processes ({', '.join(without)}) do without GPUDirect RDMA: "
            "data passes through the host's memory"
        )
        return bad(what, next(_too_far(view)), selection.line("gdr_far", "net_plain"))
    return None


def _processes_without(selection: Selection) -> list[str]:
    """Return the processes none of whose connections uses GPUDirect RDMA, in a log that several processes share.

    Where the lists are full, a process may be missing among those that use it, and none is named.
    """
    if len(selection.direct_processes) >= MOST:
        return []
    return [each for each in selection.plain_processes if each not in selection.direct_processes]


def uses_gdr(selection: Selection) -> bool:
    """Whether a connection between nodes is known to use GPUDirect RDMA."""
    return any(each.endswith("/GDRDMA") for each in selection.transports)


def _of_networks(devices: tuple[str, ...], selection: Selection) -> list[str]:
    """Return the devices of the networks that NCCL uses."""
    named = (each.rpartition("/") for each in devices)
    return [device for network, _, device in named if network in selection.networks]


def _no_driver(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield why an adapter's driver does not reach the memory of GPUs."""
    if view.environment.get("FI_EFA_USE_DEVICE_RDMA") == "0":
        yield Cause("FI_EFA_USE_DEVICE_RDMA=0 switches it off")
    version = tuple(int(each) for each in re.findall(r"\d+", selection.version or "")[:2])
    if view.peermem and version and version < _KNOWS_NVIDIA_PEERMEM:
        yield Cause(f"NCCL {selection.version} may not know the node's nvidia_peermem, as releases from 2.23 on do")
    if view.environment.get("NCCL_DMABUF_ENABLE") == "0" and not view.peermem:
        yield Cause("NCCL_DMABUF_ENABLE=0, and nvidia_peermem is not loaded on the node")
    if view.peermem is False and not selection.dma_buf:
        yield Cause(
            "nvidia_peermem is not loaded on the node (modprobe nvidia_peermem), and NCCL does not find DMA-BUF, which "
            "needs the open kernel modules of the NVIDIA driver and Linux 5.12"
        )
    if view.peermem:
        yield Cause(
            "nvidia_peermem is loaded and not registered with the RDMA driver: build the NVIDIA driver after the RDMA "
            "stack (MLNX_OFED), or use DMA-BUF"
        )
    yield Cause("neither nvidia_peermem nor DMA-BUF works on the node (modprobe nvidia_peermem; lsmod; dmesg)")


def _too_far(view: NodeView) -> Iterator[Cause]:
    """Yield why connections do without GPUDirect RDMA although the adapters could."""
    level = view.environment.get("NCCL_NET_GDR_LEVEL", view.environment.get("NCCL_IB_GDR_LEVEL"))
    if level is not None and level.upper() in _OFF:
        yield Cause(f"NCCL_NET_GDR_LEVEL={level} switches it off")
    translated = " (the IOMMU is on: try iommu=pt)" if view.iommu else ""
    allowed = f"NCCL_NET_GDR_LEVEL={level}" if level else "NCCL's default (NCCL_NET_GDR_LEVEL)"
    yield Cause(
        f"GPU and adapter are further apart than {allowed} allows: a virtual machine without NCCL_TOPO_FILE hides the "
        f"PCI switches, or ACS sends their traffic through the CPU{translated}"
    )
