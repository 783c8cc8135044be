"""Single nodes: their state with its reason, and the resources that Slurm counts on."""

import re
from dataclasses import dataclass

from launcher._util.shell import Shell
from launcher.slurm.ask import answer
from launcher.slurm.info import parse_gpus

# Free text last: a reason may hold the separator. Fields: https://slurm.schedmd.com/sinfo.html#OPT_format
_FIELDS = ("%N", "%R", "%T", "%c", "%m", "%G", "%E")

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


def read_nodes(shell: Shell) -> tuple[Node, ...]:
    """Return every node that the user may see. Raises SlurmError, SlurmUnavailableError."""
    return parse_nodes(answer(["sinfo", "--Node", "--noheader", f"--format={'|'.join(_FIELDS)}"], shell))


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
            int(cpus.rstrip("+")),
            int(memory.rstrip("+")),
            gpus,
            kind,
            None if reason in ("", "none", "(null)") else reason,
        )
    return tuple(found.values())
