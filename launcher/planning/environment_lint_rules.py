"""The linter's table: which variables with which values are a mistake, where, why, and by which source."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from launcher.config.cluster import Cluster

_NCCL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html"
_EFA = "awslabs/awsome-distributed-ai 95b939c, EFA cheat sheet"
_TORCH = "pytorch/pytorch v2.2, torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp"

_ON = "[1-9][0-9]*"  # NCCL reads numbers
_FORCED = r"[^^].*"  # a list with ^ in front rules something out, as workarounds of faults do


@dataclass(frozen=True)
class Place:
    """What a rule may depend on besides the variable itself."""

    cluster: Cluster
    nodes: int


def _everywhere(_: Place) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """One variable (or a pattern of names) with values that are a mistake, and why."""

    name: str
    """A regular expression for the whole name."""

    kind: Literal["obsolete", "contradictory", "dangerous"]
    why: str
    instead: str
    source: str
    value: str = ".*"
    """A regular expression for the whole value, whatever the case; a value that is passed on by name fits `.*` only."""

    applies: Callable[[Place], bool] = _everywhere
    set_by: str = ""
    """What the origin starts with; empty: whoever sets it."""


def _efa(place: Place) -> bool:
    return place.cluster.fabric == "efa"


def _verbs(place: Place) -> bool:
    return place.cluster.fabric in ("infiniband", "roce")


def _fast(place: Place) -> bool:
    return place.nodes > 1 and place.cluster.fabric in ("efa", "infiniband", "roce")


def _domain(place: Place) -> bool:
    return place.nodes > 1 and place.cluster.nvlink_domain_nodes > 1


RULES: tuple[Rule, ...] = (
    # ---- obsolete
    Rule(
        "FI_EFA_USE_DEVICE_RDMA",
        "obsolete",
        "since libfabric 1.18 with aws-ofi-nccl 1.7 RDMA is used wherever the device has it",
        "leave it out",
        _EFA,
    ),
    Rule(
        "FI_EFA_FORK_SAFE",
        "obsolete",
        "since Linux 5.15 a fork is safe without it",
        "leave it out",
        _EFA,
    ),
    Rule(
        "RDMAV_.*",
        "obsolete",
        "it is libibverbs' own way to survive a fork, which EFA's provider of libfabric handles itself",
        "leave it out",
        _EFA,
        applies=_efa,
    ),
    Rule(
        "NCCL_PROTO",
        "obsolete",
        "it was needed on EFA up to aws-ofi-nccl 1.5, and takes NCCL's faster protocols away since",
        "leave it out",
        _EFA,
        value="simple",
        applies=_efa,
    ),
    *(
        Rule(
            f"NCCL_{name}",
            "obsolete",
            f"since PyTorch 2.2 it is called TORCH_NCCL_{name}",
            f"set TORCH_NCCL_{name}, or leave it out",
            _TORCH,
        )
        for name in ("ASYNC_ERROR_HANDLING", "BLOCKING_WAIT", "DESYNC_DEBUG", "ENABLE_TIMING")
    ),
    # ---- contradictory
    Rule(
        "NCCL_NET",
        "contradictory",
        "the profile has a faster network, and this one is TCP",
        "leave it out",
        _NCCL,
        value="socket",
        applies=_fast,
    ),
    Rule(
        "NCCL_IB_DISABLE",
        "contradictory",
        "the profile's network is reached through the transport that this switches off",
        "leave it out",
        _NCCL,
        value=_ON,
        applies=_verbs,
    ),
    Rule(
        "NCCL_NET_PLUGIN",
        "contradictory",
        "EFA is reached through the plugin aws-ofi-nccl alone, and this takes another or none: NCCL falls back to TCP",
        "leave it out, or give the path of aws-ofi-nccl",
        "NVIDIA-NeMo/Megatron-Bridge 067f987, scripts/performance/utils/csp_plugins.py",
        value="none|.*spcx.*",
        applies=_efa,
    ),
    Rule(
        "FI_PROVIDER",
        "contradictory",
        "the profile's network is EFA, and libfabric is to use another provider",
        "leave it out, or FI_PROVIDER=efa",
        _EFA,
        value="(?!.*efa).*",
        applies=_efa,
    ),
    Rule(
        "NCCL_SOCKET_IFNAME",
        "contradictory",
        "a run of several nodes cannot meet through the loopback interface",
        "name the interface between the nodes, or leave it out",
        _NCCL,
        value="=?lo",
        applies=lambda place: place.nodes > 1,
    ),
    Rule(
        "NCCL_COLLNET_ENABLE",
        "contradictory",
        "the profile says sharp = true, and this keeps NCCL from it",
        "leave it out, or sharp = false in the profile",
        _NCCL,
        value="0",
        applies=lambda place: place.cluster.sharp,
    ),
    Rule(
        "NCCL_NET_PLUGIN",
        "contradictory",
        "the profile says sharp = true, and NCCL knows SHARP through a plugin alone",
        "give the path of the image's nccl-rdma-sharp-plugins, or sharp = false in the profile",
        "Mellanox/nccl-rdma-sharp-plugins, README.md",
        value="none|.*spcx.*",
        applies=lambda place: place.cluster.sharp,
    ),
    Rule(
        "NCCL_MNNVL_ENABLE",
        "contradictory",
        "the profile's nodes share NVLink, and this keeps NCCL from using it between them",
        "leave it out",
        _NCCL,
        value="0",
        applies=_domain,
    ),
    Rule(
        "NCCL_CUMEM_ENABLE",
        "contradictory",
        "NVLink between nodes needs memory of the cuMem functions, which this switches off",
        "leave it out",
        _NCCL,
        value="0",
        applies=_domain,
    ),
    Rule(
        "NVIDIA_DRIVER_CAPABILITIES",
        "contradictory",
        "IMEX channels, which NVLink between nodes needs, come into a container with the capability `compute` only",
        "add compute to it",
        "NVIDIA/enroot conf/hooks/98-nvidia.sh",
        value="(?!.*(compute|all)).*",
        applies=_domain,
    ),
    # ---- dangerous
    Rule(
        "NCCL_ALGO",
        "dangerous",
        "it takes the choice by size and topology away from NCCL, for every operation of the run",
        "leave it out, but to look for a fault",
        _NCCL,
        value=_FORCED,
    ),
    Rule(
        "NCCL_PROTO",
        "dangerous",
        "it takes the choice away from NCCL, and LL128 on a platform without it corrupts data",
        "leave it out, but to look for a fault",
        _NCCL,
        value=f"(?!simple$){_FORCED}",
    ),
    Rule(
        "NCCL_PROTO",
        "dangerous",
        "it takes the faster protocols for small messages away from NCCL",
        "leave it out, but to look for a fault",
        _NCCL,
        value="simple",
        applies=lambda place: place.cluster.fabric != "efa",
    ),
    Rule(
        "NCCL_P2P_DISABLE",
        "dangerous",
        "GPUs of a node no longer reach each other over NVLink",
        "leave it out, but to look for a fault",
        _NCCL,
        value=_ON,
    ),
    Rule(
        "NCCL_DEBUG",
        "dangerous",
        "every call of every rank is written to the log",
        "NCCL_DEBUG=INFO says what was selected",
        _NCCL,
        value="trace",
        applies=lambda place: place.nodes > 1,
    ),
    Rule(
        "CUDA_LAUNCH_BLOCKING",
        "dangerous",
        "the CPU waits for each kernel: nothing overlaps",
        "leave it out, but to look for a fault",
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables",
        value="1",
    ),
    Rule(
        "CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES",
        "dangerous",
        "each rank takes the device of its LOCAL_RANK among those that are visible, and Slurm says which are the job's",
        "leave it out; --gpus-per-node starts fewer ranks",
        "https://slurm.schedmd.com/gres.html#GPU_Management",
    ),
    Rule(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "dangerous",
        "the right value depends on the model's parallelism and the GPU, so that recipes state it; a recipe's own wins",
        "leave it to the recipe, or give --env for one run",
        "NVIDIA-NeMo/Megatron-Bridge 067f987, docs/performance-guide.md",
        set_by="cluster profile",
    ),
)
