"""Everything that a login node can tell of a cluster: what Slurm says of itself, and which options its sbatch accepts.

An option is tried with `sbatch --test-only`: the controller checks the job as it would a real one, and queues nothing
(https://slurm.schedmd.com/sbatch.html#OPT_test-only).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from launcher._util.errors import CommandError, RequestError, SlurmError
from launcher._util.shell import Shell
from launcher.slurm import info
from launcher.slurm.ask import TIMEOUT_S, NoAnswer, answer, environment, first_error, no_answer

# sbatch's own variables would add options to every trial.
_DISTURBING = ("SBATCH_",)


@dataclass(frozen=True)
class Trial:
    """What sbatch said of a job with these options; `accepted` is None where nobody answered."""

    options: tuple[str, ...]
    accepted: bool | None
    words: str = ""
    """Of a refusal, or why there was no answer."""


@dataclass(frozen=True)
class Found:
    """A cluster, seen from one of its partitions. None: it could not be found out."""

    groups: tuple[info.NodeGroup, ...]
    partition: str
    settings: Mapping[str, str]
    """`scontrol show config`."""

    release: tuple[int, ...] = ()
    mpi_types: tuple[str, ...] | None = None
    srun_help: str | None = None
    """Output of `srun --help`, with the options of its plugins."""

    limits: Mapping[str, str] = field(default_factory=dict)
    """`scontrol show partition`."""

    node: Mapping[str, str] = field(default_factory=dict)
    """`scontrol show node` of one of its nodes."""

    block_sizes: tuple[int, ...] = ()
    """Nodes of a block, from `scontrol show topology`, where Slurm has blocks."""

    plain: Trial | None = None
    """A job that asks for nothing but a node and its tasks: where it is refused, the others say nothing."""

    trials: Mapping[str, Trial] = field(default_factory=dict)
    together: Trial | None = None
    """All that were accepted, in one job."""

    @property
    def own(self) -> tuple[info.NodeGroup, ...]:
        """The partition's nodes, the most frequent kind first, kinds that differ only in their state put together."""
        return kinds(group for group in self.groups if group.partition == self.partition)


def look(shell: Shell, partition: str | None = None) -> Found:
    """Ask everything. Raises SlurmError, NoAnswer, and RequestError for a partition that is not there."""
    groups = info.node_groups(shell)
    name = _choose(groups, partition)
    settings = info.settings(shell)
    found = Found(
        groups,
        name,
        settings,
        release=info.version(shell),
        mpi_types=_maybe(lambda: info.mpi_types(shell)),
        srun_help=_maybe(lambda: info.srun_help(shell)),
        limits=_maybe(lambda: _record(["scontrol", "--oneliner", "show", "partition", name], shell)) or {},
        node=_maybe(lambda: _node(name, shell)) or {},
        block_sizes=_maybe(lambda: _block_sizes(settings, shell)) or (),
    )
    plain = _try(_plain(found), shell)
    trials = {key: _try((*_plain(found), *options), shell) for key, options in candidates(found).items()}
    wanted = [trial.options for trial in _compatible(trials)]
    together = _try(tuple(dict.fromkeys(option for options in wanted for option in options)), shell) if wanted else None
    return Found(**{**vars(found), "plain": plain, "trials": trials, "together": together})


def kinds(groups: Iterable[info.NodeGroup]) -> tuple[info.NodeGroup, ...]:
    """Groups of alike nodes whatever their state, the largest first; with GPUs before without."""
    found: dict[tuple[object, ...], info.NodeGroup] = {}
    for group in groups:
        key = (group.gpus, group.gpu_type, group.cpus, group.memory_mb)
        nodes = group.nodes + (found[key].nodes if key in found else 0)
        found[key] = info.NodeGroup(**{**vars(group), "nodes": nodes})
    return tuple(sorted(found.values(), key=lambda group: (group.gpus == 0, -group.nodes)))


def candidates(found: Found) -> dict[str, tuple[str, ...]]:
    """The options to be tried by the names of the profile's directives."""
    first = found.own[0]
    tried: dict[str, tuple[str, ...]] = {}
    if first.gpus:
        tried["gpus-per-node"] = (f"--gpus-per-node={first.gpus}",)
        tried["gres"] = (f"--gres=gpu:{first.gpus}",)
        if first.gpu_type and "+" not in first.gpu_type:
            tried["gres with type"] = (f"--gres=gpu:{first.gpu_type}:{first.gpus}",)
    tried["exclusive"] = ("--exclusive",)
    tried["mem"] = ("--mem=0",)
    tried["segment"] = ("--segment=1",)
    if first.gpus and first.cpus >= first.gpus:
        tried["cpus-per-task"] = (f"--cpus-per-task={first.cpus // first.gpus}",)
    return tried


def _plain(found: Found) -> tuple[str, ...]:
    return (f"--partition={found.partition}", "--nodes=1", f"--ntasks-per-node={max(1, found.own[0].gpus)}")


def _compatible(trials: Mapping[str, Trial]) -> list[Trial]:
    """Those that were accepted, GPUs asked for in one form only; --segment is a matter of each run."""
    forms = [key for key in ("gpus-per-node", "gres", "gres with type") if key in trials and trials[key].accepted]
    others = [key for key in ("exclusive", "mem", "cpus-per-task") if key in trials and trials[key].accepted]
    return [trials[key] for key in (*forms[:1], *others)]


def _choose(groups: tuple[info.NodeGroup, ...], wanted: str | None) -> str:
    names = list(dict.fromkeys(group.partition for group in groups))
    if wanted is not None and wanted not in names:
        raise RequestError(f"there is no partition {wanted!r}", where="--partition", hint=f"Known: {', '.join(names)}.")
    chosen = wanted or next((group.partition for group in groups if group.default), None)
    if chosen is None:
        raise RequestError(
            "Slurm has no default partition here",
            where="--partition",
            hint=f"Name the one to describe: {', '.join(names) or '(sinfo lists none)'}.",
        )
    return chosen


def _try(options: tuple[str, ...], shell: Shell) -> Trial:
    env = {name: value for name, value in environment().items() if not name.startswith(_DISTURBING)}
    argv = ["sbatch", "--test-only", "--job-name=probe", "--output=/dev/null", *options, "--wrap=true"]
    try:
        result = shell.run(argv, env=env, check=False, timeout_s=TIMEOUT_S)
    except CommandError as error:
        return Trial(options, None, error.message)
    if result.status == 0:
        return Trial(options, True)
    if words := no_answer(result.stderr):
        return Trial(options, None, words)
    return Trial(options, False, first_error(result).removeprefix("allocation failure: "))


def _maybe[Value](question: Callable[[], Value]) -> Value | None:
    """An answer, or None: what one question leaves open is no reason to leave out the others."""
    try:
        return question()
    except (NoAnswer, SlurmError):
        return None


def _record(argv: list[str], shell: Shell) -> dict[str, str]:
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", answer(argv, shell)))


def _node(partition: str, shell: Shell) -> dict[str, str]:
    argv = ["sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N"]
    names = answer(argv, shell).split()
    return _record(["scontrol", "--oneliner", "show", "node", names[0]], shell) if names else {}


def _block_sizes(settings: Mapping[str, str], shell: Shell) -> tuple[int, ...]:
    if settings.get("TopologyPlugin") != "topology/block":
        return ()
    text = answer(["scontrol", "show", "topology"], shell)
    return tuple(dict.fromkeys(int(size) for size in re.findall(r"\bBlockSize=(\d+)", text)))
