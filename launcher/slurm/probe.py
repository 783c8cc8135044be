"""Everything that can be learned about a cluster from a login node: Slurm's configuration and the options of sbatch.

An option is tried with `sbatch --test-only`: the controller checks the job as it would a real one, and queues nothing
(https://slurm.schedmd.com/sbatch.html#OPT_test-only).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from launcher._util.errors import CommandError, RequestError, SlurmError
from launcher._util.shell import Shell
from launcher.slurm import info
from launcher.slurm.ask import TIMEOUT_S, SlurmUnavailableError, answer, environment, first_error, unavailable_line

# sbatch's own variables would add options to every test.
_DISTURBING = ("SBATCH_",)


@dataclass(frozen=True)
class OptionTest:
    """Whether sbatch accepts a job with these options; `accepted` is None where Slurm did not answer."""

    options: tuple[str, ...]
    accepted: bool | None
    words: str = ""
    """The message of a refusal, or why there was no answer."""


@dataclass(frozen=True)
class ClusterProbe:
    """A cluster, seen from one of its partitions. None: not known."""

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

    baseline: OptionTest | None = None
    """A job that asks for nothing but a node and its tasks: if it is refused, the other tests mean nothing."""

    asked: Mapping[str, str] = field(default_factory=dict)
    """Options that each test has by the user's wish: account, qos."""

    option_tests: Mapping[str, OptionTest] = field(default_factory=dict)
    combined: OptionTest | None = None
    """All that were accepted, in one job."""

    @property
    def own(self) -> tuple[info.NodeGroup, ...]:
        """Return the partition's kinds of nodes, the most frequent first, whatever their state."""
        return kinds(group for group in self.groups if group.partition == self.partition)


def probe_cluster(shell: Shell, partition: str | None = None, asked: Mapping[str, str] | None = None) -> ClusterProbe:
    """Ask everything; `asked` are further options of each test, by their long names.

    Raises SlurmError, SlurmUnavailableError; RequestError for a partition that does not exist.
    """
    groups = info.node_groups(shell)
    name = _choose(groups, partition)
    settings = info.settings(shell)
    found = ClusterProbe(
        groups,
        name,
        settings,
        release=info.version(shell),
        mpi_types=_maybe(lambda: info.mpi_types(shell)),
        srun_help=_maybe(lambda: info.srun_help(shell)),
        limits=_maybe(lambda: _record(["scontrol", "--oneliner", "show", "partition", name], shell)) or {},
        node=_maybe(lambda: _node(name, shell)) or {},
        block_sizes=_maybe(lambda: _block_sizes(settings, shell)) or (),
        asked=asked or {},
    )
    baseline = _try(_baseline(found), shell)
    option_tests = {key: _try((*_baseline(found), *options), shell) for key, options in candidates(found).items()}
    wanted = [test.options for test in _compatible(option_tests)]
    combined = _try(tuple(dict.fromkeys(option for options in wanted for option in options)), shell) if wanted else None
    return ClusterProbe(**{**vars(found), "baseline": baseline, "option_tests": option_tests, "combined": combined})


def kinds(groups: Iterable[info.NodeGroup]) -> tuple[info.NodeGroup, ...]:
    """Return groups of equal nodes whatever their state, the largest first, nodes with GPUs before nodes without."""
    found: dict[tuple[object, ...], info.NodeGroup] = {}
    for group in groups:
        key = (group.gpus, group.gpu_type, group.cpus, group.memory_mb)
        nodes = group.nodes + (found[key].nodes if key in found else 0)
        found[key] = info.NodeGroup(**{**vars(group), "nodes": nodes})
    return tuple(sorted(found.values(), key=lambda group: (group.gpus == 0, -group.nodes)))


def candidates(found: ClusterProbe) -> dict[str, tuple[str, ...]]:
    """Return the options to try, by the names of the profile's directives."""
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


def _baseline(found: ClusterProbe) -> tuple[str, ...]:
    asked = (f"--{key}={value}" for key, value in found.asked.items())
    return (
        f"--partition={found.partition}",
        *asked,
        "--nodes=1",
        f"--ntasks-per-node={max(1, found.own[0].gpus)}",
    )


def _compatible(option_tests: Mapping[str, OptionTest]) -> list[OptionTest]:
    """Return the accepted options that go together: one form of asking for GPUs, no --segment (it is per run)."""
    accepted = {key: test for key, test in option_tests.items() if test.accepted}
    forms = [key for key in ("gpus-per-node", "gres", "gres with type") if key in accepted]
    others = [key for key in ("exclusive", "mem", "cpus-per-task") if key in accepted]
    return [accepted[key] for key in (*forms[:1], *others)]


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


def _try(options: tuple[str, ...], shell: Shell) -> OptionTest:
    env = {name: value for name, value in environment().items() if not name.startswith(_DISTURBING)}
    argv = ["sbatch", "--test-only", "--job-name=probe", "--output=/dev/null", *options, "--wrap=true"]
    try:
        result = shell.run(argv, env=env, check=False, timeout_s=TIMEOUT_S)
    except CommandError as error:
        return OptionTest(options, None, error.message)
    if result.status == 0:
        return OptionTest(options, True)
    if words := unavailable_line(result.stderr):
        return OptionTest(options, None, words)
    return OptionTest(options, False, first_error(result).removeprefix("allocation failure: "))


Answer = TypeVar("Answer")


def _maybe(question: Callable[[], Answer]) -> Answer | None:
    """Return an answer, or None where Slurm fails: the other questions are still worth asking."""
    try:
        return question()
    except (SlurmUnavailableError, SlurmError):
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
