"""Facts about a cluster: partitions, GPUs, MPI types, Slurm's configuration."""

import re

from launcher._util.errors import SlurmError
from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass
from launcher.slurm.ask import answer, ask

_SINFO = ("%P", "%a", "%l", "%D", "%c", "%m", "%T", "%G")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one partition that are alike and in the same state (`idle`, `allocated`, `down*`, ...)."""

    partition: str
    default: bool
    up: bool
    time_limit_min: int | None
    """None: no limit."""
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    gpu_type: str | None
    state: str


def node_groups(shell: Shell) -> tuple[NodeGroup, ...]:
    """Return the nodes of every partition. Raises SlurmError, SlurmUnavailableError."""
    return parse_sinfo(answer(["sinfo", "--noheader", "--noconvert", f"--format={'|'.join(_SINFO)}"], shell))


def parse_sinfo(text: str) -> tuple[NodeGroup, ...]:
    """Return the node groups in sinfo's lines. Raises SlurmError for a number that cannot be read."""
    groups = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", len(_SINFO) - 1)]
        if len(fields) < len(_SINFO):
            continue
        partition, available, limit, nodes, cpus, memory, state, gres = fields
        gpus, kind = parse_gpus(gres)
        groups.append(
            NodeGroup(
                partition.rstrip("*"),
                partition.endswith("*"),
                available == "up",
                parse_limit(limit),
                whole_number(nodes),
                whole_number(cpus),
                whole_number(memory),
                gpus,
                kind,
                state,
            )
        )
    return tuple(groups)


def whole_number(text: str) -> int:
    """Return a number of sinfo's: of `12+`, at least 12, the 12; of `1.5K`, which it writes for 1536, that.

    Raises SlurmError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)\+?", text, re.ASCII)
    if match is None:
        raise SlurmError(f"sinfo: {text!r} is not a number")
    return round(float(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[2]])


def parse_gpus(gres: str) -> tuple[int, str | None]:
    """Return GPUs and their type from `gpu:8`, `gpu:h100:8(S:0-1)`, `gpu:a100:4,mps:400`, `(null)`; types add up."""
    count, kinds = 0, []
    for each in re.sub(r"\([^)]*\)", "", gres).split(","):
        parts = each.strip().split(":")
        if parts[0] != "gpu":
            continue
        number = parts[-1] if len(parts) > 1 and parts[-1].isdigit() else "1"
        count += int(number)
        kinds += [part for part in parts[1:2] if not part.isdigit()]
    return count, "+".join(kinds) or None


def parse_limit(text: str) -> int | None:
    """Return the minutes of `10:00`, `4:00:00`, `7-00:00:00`, seconds rounded up; None for `infinite`."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def settings(shell: Shell) -> dict[str, str]:
    """Return Slurm's configuration as `scontrol show config` prints it, with units.

    Raises SlurmError, SlurmUnavailableError.
    """
    found = {}
    for line in answer(["scontrol", "show", "config"], shell).splitlines():
        name, separator, value = line.partition("=")
        if separator:
            found[name.strip()] = value.strip()
    return found


def cluster_name(shell: Shell) -> str | None:
    """Return the name of the local cluster. Raises SlurmError, SlurmUnavailableError."""
    return settings(shell).get("ClusterName") or None


def version(shell: Shell) -> tuple[int, ...]:
    """Return Slurm's release, such as (22, 5, 8). Raises SlurmError, SlurmUnavailableError."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", answer(["sinfo", "--version"], shell))
    return tuple(int(part) for part in match.groups() if part) if match else ()


def mpi_types(shell: Shell) -> tuple[str, ...]:
    """Return the values that `srun --mpi` takes here. Raises SlurmError, SlurmUnavailableError."""
    # Older releases print the list on standard error, and "srun: " before each line.
    text = _both(["srun", "--mpi=list"], shell)
    words = [line.removeprefix("srun:").strip() for line in text.splitlines()]
    versions = [
        each.strip() for line in words if "versions available" in line for each in line.partition(":")[2].split(",")
    ]
    return tuple(dict.fromkeys([word for word in words if re.fullmatch(r"[a-z][\w/]*", word)] + versions))


def srun_help(shell: Shell) -> str:
    """Return what `srun --help` prints: its options, and those of loaded plugins.

    Raises SlurmError, SlurmUnavailableError.
    """
    return _both(["srun", "--help"], shell)


def _both(argv: list[str], shell: Shell) -> str:
    result = ask(argv, shell)
    return f"{result.stdout}\n{result.stderr}"
