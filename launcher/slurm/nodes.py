"""Single nodes: their state with its reason, and the resources that Slurm counts on."""

import dataclasses
import re

from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass
from launcher.slurm.allocation import usable_cpus
from launcher.slurm.ask import answer
from launcher.slurm.info import parse_gpus, whole_number

# Free text last: a reason may hold the separator. Fields: https://slurm.schedmd.com/sinfo.html#OPT_format
_FIELDS = ("%N", "%R", "%T", "%c", "%m", "%G", "%E")

_OF_KINDS = ("%P", "%D", "%c", "%Z", "%G", "%N")

_USABLE = frozenset(
    {"idle", "mixed", "allocated", "completing", "planned", "reserved", "powering_up", "powered_down", "power_down"}
)
"""States in which a node runs jobs, now or once it is its turn (sinfo(1), NODE STATE CODES)."""


@dataclass(frozen=True)
class Node:
    """One node as Slurm sees it."""

    name: str
    partitions: tuple[str, ...]
    state: str
    """As sinfo writes it in full: `idle`, `drained`, `down*`."""
    cpus: int
    memory_mb: int
    gpus: int
    gpu_type: str | None
    reason: str | None = None
    """Why it is not available, as the administrator or Slurm wrote it."""

    @property
    def usable(self) -> bool:
        """Return whether it runs jobs; a node that does not answer (`*`) does not."""
        word = re.match(r"[a-z_]+", self.state.lower())
        return word is not None and word[0] in _USABLE and "*" not in self.state


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike, whatever their state."""

    nodes: int
    cpus: int
    """The number of CPUs that jobs may use on each."""
    gpus: int
    threads_per_core: int = 1


def node_kinds(partitions: str | None, shell: Shell) -> tuple[NodeKind, ...]:
    """Return the kinds of nodes of these partitions, separated by commas, or of the default one.

    Raises SlurmError, SlurmUnavailableError.
    """
    options = [f"--partition={partitions}"] if partitions else []
    kinds = parse_kinds(
        answer(["sinfo", "--noheader", "--noconvert", *options, f"--format={'|'.join(_OF_KINDS)}"], shell), partitions
    )
    if not kinds:
        return ()
    # sinfo counts the CPUs that a node keeps for the system, too: one node of each kind is asked.
    shown = answer(["scontrol", "show", "node", ",".join(first for first, _ in kinds)], shell)
    usable = {
        match[1]: usable_cpus(dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", text)))
        for text in re.split(r"(?m)^(?=NodeName=)", shown)
        if (match := re.match(r"NodeName=(\S+)", text))
    }
    return tuple(dataclasses.replace(kind, cpus=usable.get(first) or kind.cpus) for first, kind in kinds)


def parse_kinds(text: str, partitions: str | None) -> list[tuple[str, NodeKind]]:
    """Return the kinds in sinfo's lines, each with the name of one of its nodes."""
    found: dict[tuple[int, int, int], tuple[str, int]] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(_OF_KINDS) or not (partitions or fields[0].endswith("*")):
            continue
        _, nodes, cpus, threads, gres, names = fields
        key = (whole_number(cpus), parse_gpus(gres)[0], whole_number(threads))
        first, before = found.get(key, (_first_of(names), 0))
        found[key] = (first, before + whole_number(nodes))
    return [(first, NodeKind(count, *key)) for key, (first, count) in found.items()]


def _first_of(names: str) -> str:
    """Return the first node of a list: n1 of `n[1-4],m2`."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", names)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match[0] if match else names)


def read_nodes(shell: Shell) -> tuple[Node, ...]:
    """Return every node that the user may see. Raises SlurmError, SlurmUnavailableError."""
    return parse_nodes(answer(["sinfo", "--Node", "--noheader", "--noconvert", f"--format={'|'.join(_FIELDS)}"], shell))


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes in sinfo's lines, of which there is one for each node and partition."""
    found: dict[str, Node] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", len(_FIELDS) - 1)]
        if len(fields) < len(_FIELDS):
            continue
        name, partition, state, cpus, memory, gres, reason = fields
        gpus, kind = parse_gpus(gres)
        before = found[name].partitions if name in found else ()
        found[name] = Node(
            name,
            (*before, partition),
            state,
            whole_number(cpus),
            whole_number(memory),
            gpus,
            kind,
            None if reason in ("", "none", "(null)") else reason,
        )
    return tuple(found.values())
