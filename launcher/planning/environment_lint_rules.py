"""The linter's rules: which variables with which values are a mistake, where, why, and by which source.

Rules that hold on one fabric alone are in its module in launcher/contract/fabrics.
"""

from collections.abc import Callable

from launcher.config.cluster import Cluster
from launcher.contract.fabrics import FABRICS
from launcher.contract.fabrics.model import Fabric, LintRule
from launcher.contract.frozen import dataclass

_NCCL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html"
_EFA = "awslabs/awsome-distributed-ai 95b939c, EFA cheat sheet"
_TORCH = "pytorch/pytorch v2.2, torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp"

_ON = "[1-9][0-9]*"  # NCCL reads numbers
_FORCED = r"[^^].*"  # a list with ^ in front rules something out, as workarounds of faults do


@dataclass(frozen=True)
class LintContext:
    """What a rule may depend on besides the variable itself."""

    cluster: Cluster
    nodes: int

    @property
    def fabric(self) -> Fabric | None:
        """The fabric that the profile names."""
        return FABRICS.get(self.cluster.fabric or "")

    def fabric_has_rule(self, name: str) -> bool:
        """Whether the fabric has a rule of its own about this variable."""
        return self.fabric is not None and any(rule.name == name for rule in self.fabric.lint_rules)


def _everywhere(_: LintContext) -> bool:
    return True


@dataclass(frozen=True)
class ConditionalRule(LintRule):
    """A rule that holds wherever `applies` says so."""

    applies: Callable[[LintContext], bool] = _everywhere
    set_by: str = ""
    """The beginning of the variable's origin; empty for every origin."""


def _rdma(context: LintContext) -> bool:
    return context.nodes > 1 and context.fabric is not None and context.fabric.rdma


def _domain(context: LintContext) -> bool:
    return context.nodes > 1 and context.cluster.nvlink_domain_nodes > 1


RULES: tuple[ConditionalRule, ...] = (
    # ---- obsolete
    ConditionalRule(
        "FI_EFA_USE_DEVICE_RDMA",
        "obsolete",
        "since libfabric 1.18 with aws-ofi-nccl 1.7 RDMA is used wherever the device has it",
        "leave it out",
        _EFA,
    ),
    ConditionalRule(
        "FI_EFA_FORK_SAFE",
        "obsolete",
        "since Linux 5.15 a fork is safe without it",
        "leave it out",
        _EFA,
    ),
    *(
        ConditionalRule(
            f"NCCL_{name}",
            "obsolete",
            f"since PyTorch 2.2 it is called TORCH_NCCL_{name}",
            f"set TORCH_NCCL_{name}, or leave it out",
            _TORCH,
        )
        for name in ("ASYNC_ERROR_HANDLING", "BLOCKING_WAIT", "DESYNC_DEBUG", "ENABLE_TIMING")
    ),
    # ---- contradictory
    ConditionalRule(
        "NCCL_NET",
        "contradictory",
        "the profile has a faster network, and this one is TCP",
        "leave it out",
        _NCCL,
        value="socket",
        applies=_rdma,
    ),
    ConditionalRule(
        "NCCL_SOCKET_IFNAME",
        "contradictory",
        "a run of several nodes cannot meet through the loopback interface",
        "name the interface between the nodes, or leave it out",
        _NCCL,
        value="=?lo",
        applies=lambda context: context.nodes > 1,
    ),
    ConditionalRule(
        "NCCL_COLLNET_ENABLE",
        "contradictory",
        "the profile says sharp = true, and this keeps NCCL from it",
        "leave it out, or sharp = false in the profile",
        _NCCL,
        value="0",
        applies=lambda context: context.cluster.sharp,
    ),
    ConditionalRule(
        "NCCL_NET_PLUGIN",
        "contradictory",
        "the profile says sharp = true, and NCCL knows SHARP through a plugin alone",
        "give the path of the image's nccl-rdma-sharp-plugins, or sharp = false in the profile",
        "Mellanox/nccl-rdma-sharp-plugins, README.md",
        value="none|.*spcx.*",
        applies=lambda context: context.cluster.sharp,
    ),
    ConditionalRule(
        "NCCL_MNNVL_ENABLE",
        "contradictory",
        "the profile's nodes share NVLink, and this keeps NCCL from using it between them",
        "leave it out",
        _NCCL,
        value="0",
        applies=_domain,
    ),
    ConditionalRule(
        "NCCL_CUMEM_ENABLE",
        "contradictory",
        "NVLink between nodes needs memory of the cuMem functions, which this switches off",
        "leave it out",
        _NCCL,
        value="0",
        applies=_domain,
    ),
    ConditionalRule(
        "NVIDIA_DRIVER_CAPABILITIES",
        "contradictory",
        "IMEX channels, which NVLink between nodes needs, come into a container with the capability `compute` only",
        "add compute to it",
        "NVIDIA/enroot conf/hooks/98-nvidia.sh",
        value="(?!.*(compute|all)).*",
        applies=_domain,
    ),
    # ---- dangerous
    ConditionalRule(
        "NCCL_ALGO",
        "dangerous",
        "it takes the choice by size and topology away from NCCL, for every operation of the run",
        "leave it out, but to look for a fault",
        _NCCL,
        value=_FORCED,
    ),
    ConditionalRule(
        "NCCL_PROTO",
        "dangerous",
        "it takes the choice away from NCCL, and LL128 on a platform without it corrupts data",
        "leave it out, but to look for a fault",
        _NCCL,
        value=f"(?!simple$){_FORCED}",
    ),
    ConditionalRule(
        "NCCL_PROTO",
        "dangerous",
        "it takes the faster protocols for small messages away from NCCL",
        "leave it out, but to look for a fault",
        _NCCL,
        value="simple",
        applies=lambda context: not context.fabric_has_rule("NCCL_PROTO"),
    ),
    ConditionalRule(
        "NCCL_P2P_DISABLE",
        "dangerous",
        "GPUs of a node no longer reach each other over NVLink",
        "leave it out, but to look for a fault",
        _NCCL,
        value=_ON,
    ),
    ConditionalRule(
        "NCCL_DEBUG",
        "dangerous",
        "every call of every rank is written to the log",
        "NCCL_DEBUG=INFO says what was selected",
        _NCCL,
        value="trace",
        applies=lambda context: context.nodes > 1,
    ),
    ConditionalRule(
        "CUDA_LAUNCH_BLOCKING",
        "dangerous",
        "the CPU waits for each kernel: nothing overlaps",
        "leave it out, but to look for a fault",
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables",
        value="1",
    ),
    ConditionalRule(
        "CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES",
        "dangerous",
        "each rank takes the device of its LOCAL_RANK among those that are visible, and Slurm says which are the job's",
        "leave it out; --gpus-per-node starts fewer ranks",
        "https://slurm.schedmd.com/gres.html#GPU_Management",
    ),
    ConditionalRule(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "dangerous",
        "the right value depends on the model's parallelism and the GPU, so that recipes state it; a recipe's own wins",
        "leave it to the recipe, or give --env for one run",
        "NVIDIA-NeMo/Megatron-Bridge 067f987, docs/performance-guide.md",
        set_by="cluster profile",
    ),
)
