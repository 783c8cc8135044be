"""What a fabric, the network between nodes, is to both halves: a description, and the functions that differ by fabric.

The planner's side goes from a `NetworkRequest` to `NetworkVariables`; the job's side is in verdict.py.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Optional, Protocol

from launcher.contract.frozen import dataclass

if TYPE_CHECKING:
    from .verdict import Cause, Expectation, LogRule, NodeView, Selection, Verdict

# ---- planning


class NetPlugin(Protocol):
    """A network plugin of NCCL in an image."""

    @property
    def path(self) -> str:
        """Its file in the image."""

    @property
    def names(self) -> tuple[str, ...]:
        """Values of NCCL_NET that select it."""


@dataclass(frozen=True)
class NetworkRequest:
    """What a fabric's variables depend on."""

    policy: str
    """`require`, `warn` or `off`: what happens to a run that does not get the fabric."""
    nodes: int
    ranks: int
    sharp: bool
    """Whether the profile says that the switches reduce."""
    image: Optional[str] = None
    """The image's name; None without one."""
    image_environment: Mapping[str, Optional[str]] = field(default_factory=dict)
    plugins: Optional[Sequence[NetPlugin]] = None
    """NCCL's plugins in the image; None where its contents are not known."""
    stated: Mapping[str, Optional[str]] = field(default_factory=dict)
    """What the profile's [env], the recipe or the user set; None in place of a value passed on by name."""

    @property
    def presets_spcx(self) -> bool:
        """Whether the image selects NVIDIA's plugin for Spectrum-X, as NGC's images since 26.06 do."""
        return "spcx" in (self.image_environment.get("NCCL_NET_PLUGIN") or "")


@dataclass(frozen=True)
class NetworkVariables:
    """Variables to set, weaker than what the user states, and what to tell people about them."""

    variables: tuple[tuple[str, str], ...] = ()
    summary: Optional[str] = None
    """What was selected, in a few words."""
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    refusal: Optional[tuple[str, str]] = None
    """Why a run that requires this fabric cannot work, and what to do."""
    unset: tuple[str, ...] = ()
    """Variables of the image to remove."""


@dataclass(frozen=True)
class LintRule:
    """A variable whose value is a mistake on this fabric."""

    name: str
    """A regular expression for the whole name."""
    kind: str
    """`obsolete`, `contradictory` or `dangerous`."""
    why: str
    instead: str
    source: str
    value: str = ".*"
    """A regular expression for the whole value, in any case; a value that is passed on by name matches `.*` only."""


# ---- the description


class Device(Protocol):
    """A device of /sys/class/infiniband."""

    @property
    def name(self) -> str:
        """Its name there."""

    @property
    def vendor(self) -> str:
        """Its PCI vendor, such as 0x15b3; empty where sysfs does not say."""

    @property
    def link(self) -> str:
        """The link layer of its first port."""


@dataclass(frozen=True)
class Fabric:
    """One kind of network between nodes."""

    name: str
    """As profiles write it."""

    title: str
    """As people write it."""

    networks: str
    """A regular expression, in any case, for the whole names of NCCL's networks that are the fabric, or one as good;
    with any other NCCL has fallen back."""

    judge: "Callable[[Selection, Expectation, NodeView], Verdict]"
    """Judges what NCCL has selected once each of its networks is one of `networks`."""

    why_not: "Callable[[Selection, NodeView], Cause]"
    """Returns why NCCL does not use the fabric."""

    variables: Callable[[NetworkRequest], NetworkVariables] = lambda _request: NetworkVariables()
    """Returns what the environment of a run needs."""

    owns: Callable[[Device], bool] = lambda _device: False
    """Whether a device of /sys/class/infiniband is one of this fabric's."""

    rdma: bool = True
    """Whether it pins memory and needs /dev/infiniband/uverbs*."""

    gdr: bool = True
    """Whether its adapters read and write the memory of GPUs themselves (GPUDirect RDMA)."""

    registers_gpus: bool = False
    """Whether its own driver registers the memory of GPUs, without nvidia_peermem, and ib_write_bw does not know it."""

    sharp: bool = False
    """Whether its switches may reduce (SHARP)."""

    without_mlx5: bool = False
    """Whether its devices are known not to be mlx5, which DeepEP and HybridEP need between nodes."""

    log_rules: "tuple[LogRule, ...]" = ()
    """Lines of NCCL's log that only this fabric's transport writes."""

    lint_rules: tuple[LintRule, ...] = ()

    read_variables: tuple[str, ...] = ()
    """Beginnings of the names of variables, besides NCCL's, that its libraries read."""

    probe: Optional[str] = None
    """A command that shows on a node whether it has this fabric."""

    provider: Optional[str] = None
    """libfabric's provider for it, which `fi_info -p` lists."""

    nsys_plugin: Optional[str] = None
    """nsys' plugin for its counters (https://docs.nvidia.com/nsight-systems/UserGuide, "Network")."""

    nsys_option: Optional[str] = None
    """The option of `nsys profile` for its counters."""

    def accepts(self, network: str) -> bool:
        """Whether NCCL's network of this name is the fabric, or one as good."""
        return re.fullmatch(self.networks, network, re.IGNORECASE) is not None
