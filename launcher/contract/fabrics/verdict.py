"""What the job compares: NCCL's log as a `Selection`, the expectation, what a rank sees of its node; the verdict."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Optional


@dataclass(frozen=True)
class Comm:
    """A communicator, as its rank describes it. `nodes` are NVLink domains where NVLink reaches beyond a machine."""

    ranks: int
    nodes: int
    local_ranks: int
    mnnvl: bool


@dataclass(frozen=True)
class Selection:
    """What NCCL's log says so far about what it uses."""

    version: Optional[str] = None
    networks: tuple[str, ...] = ()
    """Names behind "Using network", in order."""
    plugin: Optional[str] = None
    """The external plugin that was loaded, by the name it gives itself."""
    plugin_path: Optional[str] = None
    plugin_version: Optional[str] = None
    libfabric: Optional[str] = None
    """The version of libfabric."""
    providers: tuple[str, ...] = ()
    fabric: Optional[str] = None
    protocol: Optional[str] = None
    nics: Optional[int] = None
    """How many NICs aws-ofi-nccl found."""
    hcas: tuple[str, ...] = ()
    """`mlx5_0:1/IB`: the ports that the InfiniBand transport uses."""
    hcas_whole: bool = False
    """Whether the list of ports is complete; NCCL cuts its lines off after 1024 characters."""
    interfaces: tuple[str, ...] = ()
    """Of sockets."""
    transports: tuple[str, ...] = ()
    """How ranks are connected: P2P/CUMEM, SHM/direct, NET/Libfabric/GDRDMA."""
    direct_processes: tuple[str, ...] = ()
    """`host:pid` of processes that have a connection between nodes with GPUDirect RDMA."""
    plain_processes: tuple[str, ...] = ()
    """`host:pid` of processes that have one without it. A process may be in both: before Ampere NCCL sends without."""
    gdr_on: tuple[str, ...] = ()
    """`IB/mlx5_0`: adapters that may read and write the memory of GPUs (GPUDirect RDMA), by network."""
    gdr_off: tuple[str, ...] = ()
    """Adapters that may not, by network: data passes through the host's memory."""
    dma_buf: bool = False
    """Whether the driver hands out the memory of GPUs as DMA-BUF."""
    collnet: Optional[str] = None
    """The plugin for reductions in the network, by the name that it gives itself: SHARP."""
    collnet_up: bool = False
    """Whether a communicator reduces in the network."""
    paths: tuple[str, ...] = ()
    """Kinds of path between the GPUs of a node: NVL, PIX, SYS."""
    nvls: Optional[bool] = None
    """Whether NVLink's multicast is there."""
    clique: int = 0
    """The most ranks that one NVLink domain was found to join."""
    fabric_state: Optional[int] = None
    """Of NVLink's fabric manager; 3 is completed (nvml.h, NVML_GPU_FABRIC_STATE_COMPLETED)."""
    comms: tuple[Comm, ...] = ()
    completed: tuple[int, ...] = ()
    """Sizes of the communicators that are up."""
    said: tuple[tuple[str, str], ...] = ()
    """The first line of each kind that a verdict may quote."""

    def line(self, *kinds: str) -> Optional[str]:
        """Return the line of the first of these kinds that the log has."""
        found = dict(self.said)
        return next((found[kind] for kind in kinds if kind in found), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, without the lines."""
        return {name: value for name, value in asdict(self).items() if name != "said"}


Update = Callable[[Selection, "re.Match[str]"], "dict[str, Any]"]
"""Returns what a line of the log changes, by field of `Selection`."""

LogRule = tuple[str, str, Optional[Update]]
"""A regular expression for NCCL's lines; the kind under which the first such line is kept, or ""; what it changes."""

MOST = 32
"""Of each kind of thing, so that a log that goes wrong does not grow in memory."""


def log_rule(pattern: str, kind: str = "", update: Optional[Update] = None) -> LogRule:
    """Return a rule; `{0}` in `kind` stands for the pattern's first group."""
    return pattern, kind, update


def set_field(name: str) -> Update:
    """Return an update that takes the pattern's first group as the value of a field."""
    return lambda _selection, match: {name: match[1]}


def added(values: tuple[Any, ...], *more: Any) -> tuple[Any, ...]:
    """Return `values` with what is new in `more`, up to a bound."""
    return tuple(dict.fromkeys((*values, *more)))[:MOST]


@dataclass(frozen=True)
class Expectation:
    """What the cluster profile says about the network between the ranks of a run."""

    policy: str
    """`require`: a run with a worse network ends; `warn`: it goes on with a warning."""
    fabric: str
    nodes: int
    ranks_per_node: int
    nvlink_domain: bool = False
    """Whether NVLink reaches beyond a node (GB200 NVL72 and the like)."""
    nics_per_node: Optional[int] = None
    gdr: bool = True
    """Whether adapters reach the memory of GPUs (GPUDirect RDMA), on a fabric that can do so."""
    sharp: bool = False
    """Whether the switches reduce (SHARP)."""

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.ranks_per_node

    def too_few(self, found: Optional[int]) -> bool:
        """Whether fewer devices were found on a node than the profile says."""
        return found is not None and self.nics_per_node is not None and found < self.nics_per_node


@dataclass(frozen=True)
class NodeView:
    """What a rank sees of its node. None: that was not looked at."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that NCCL and the fabrics' libraries read."""
    uverbs: Optional[bool] = None
    """Whether there is any /dev/infiniband/uverbs*: InfiniBand, RoCE and EFA all need one."""
    imex: Optional[bool] = None
    """Whether there is a channel in /dev/nvidia-caps-imex-channels."""
    memlock: Optional[int] = None
    """How many bytes may be locked in memory; -1 where any number may."""
    peermem: Optional[bool] = None
    """Whether nvidia_peermem (or the older nv_peer_mem) is loaded."""
    iommu: Optional[bool] = None
    """Whether the kernel translates the addresses of devices."""


@dataclass(frozen=True)
class Cause:
    """A likely cause, and the line of NCCL's log that supports it."""

    words: str
    line: Optional[str] = None


VerdictWord = Literal["good", "bad", "unknown"]
GOOD: VerdictWord = "good"
BAD: VerdictWord = "bad"
UNKNOWN: VerdictWord = "unknown"


@dataclass(frozen=True)
class Verdict:
    """The judgement of a node's network."""

    word: VerdictWord
    what: str
    """One clause: the state that was found."""
    cause: Optional[str] = None
    line: Optional[str] = None
    """The line of NCCL's log that shows it."""
    fatal: bool = False
    """Whether NCCL itself cannot go on like this."""
    ends: bool = True
    """Whether a bad verdict ends a run that requires its network."""
    provisional: bool = False
    """Whether lines that NCCL writes with its first collectives may still change it."""

    @property
    def sentence(self) -> str:
        """All in one sentence."""
        cause = f": {self.cause}" if self.cause else ""
        line = f" [{self.line}]" if self.line and self.word != GOOD else ""
        return f"{self.what}{cause}{line}"


def bad(what: str, cause: Cause, line: Optional[str] = None, *, fatal: bool = False, ends: bool = True) -> Verdict:
    """Return a bad verdict with the cause's line, or else `line`."""
    return Verdict(BAD, what, cause.words, cause.line or line, fatal, ends)
