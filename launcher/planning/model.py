"""The plan: everything that is decided about a run, as a frozen value that serialises to JSON."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Literal

from launcher.contract.frozen import dataclass
from launcher.planning.backend import BackendTraits
from launcher.planning.profiler.model import ProfilerPlan
from launcher.runtimes.model import Container, Mount

if TYPE_CHECKING:
    from launcher.contract.records.request import JobRequest


@dataclass(frozen=True)
class Variable:
    """An environment variable of a rank, with where it comes from.

    `value` is None where only the name is known (a value passed on by name is in no file). `scope` is `task` for what
    step.sh sets inside the container, `host` for what srun's side needs, `inherited` for what the submitting shell
    passes on, `image` for what the image itself sets and nothing in the plan overrides. `overridden` lists weaker
    origins with their values. With `expand` the task replaces `$NAME` in the value by its own variable of that name.

    `operation` names what step.sh does with it inside the container: `set`; `unset`, without a value; `prepend`, which
    puts the directory `value` in front of the image's own list; `source`, whose `name` is a file of bash.
    """

    name: str
    value: str | None
    origin: str
    scope: Literal["task", "host", "inherited", "image"]
    overridden: tuple[tuple[str, str], ...] = ()
    operation: Literal["set", "unset", "prepend", "source"] = "set"
    expand: bool = False

    def assignment(self, hidden: str) -> str:
        """Return it for people; `hidden` stands for a value that is not known."""
        if self.operation == "unset":
            return f"{self.name} is removed"
        if self.operation == "source":
            return f"source {self.name}"
        rest = ":..." if self.operation == "prepend" else ""
        return f"{self.name} = {hidden if self.value is None else self.value}{rest}"


@dataclass(frozen=True)
class PlannedImage:
    """The image of a run: one file, whatever is built or imported under its name later."""

    name: str
    """As it was asked for."""

    path: str
    """Absolute; of an image in the store the file that is named by its content."""

    digest: str | None
    """`sha256:...` of the file; None where it was not computed."""

    architecture: str | None
    size_bytes: int
    store: str | None
    """The store that holds it; None for a file elsewhere."""

    key: str
    """Twelve hexadecimal digits that tell this content from another: of the digest, or of path, size and time."""

    def __str__(self) -> str:
        found = "" if self.name == self.path else f" ({self.path})"
        return f"{self.name}{found}, {self.digest or 'without a digest'}"


@dataclass(frozen=True)
class RankLayout:
    """How many ranks, and how they divide; `parallel` holds the sizes that the request states."""

    nodes: int
    ranks_per_node: int
    world_size: int
    parallel: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Step:
    """The srun of the ranks: what it is given besides the paths of the attempt."""

    srun_args: tuple[str, ...]
    wait_s: int
    export: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """The nodes of the current allocation that were chosen; empty for the first ones of the allocation."""


@dataclass(frozen=True)
class AllocationPart:
    """What the ranks' step asks of the allocation that this shell is in, where the options of salloc do not count."""

    cpus_per_task: int | None
    """None where the ranks share CPUs."""
    gpus_per_node: int | None
    """None where the allocation has no GPUs."""
    overlap: bool
    """Whether this shell is a step itself, which holds what the ranks need."""


@dataclass(frozen=True)
class RendezvousPlan:
    """Where the ranks meet: the first node's address, from one of the three or from Slurm, and the ports."""

    suffix: str | None
    interface: str | None
    command: str | None
    first_port: int
    ports: int
    """How many, from the first on."""


@dataclass(frozen=True)
class Spares:
    """Nodes that the job holds beyond those that train."""

    count: int
    """At most so many: Slurm gives those that are free when the job starts."""
    limit_s: int
    """How long the check of all nodes may take that chooses those that train."""
    expected: str
    """What the check compares the nodes with (launcher/job/doctor/expected.py), as JSON."""


@dataclass(frozen=True)
class Gate:
    """A program that has to pass on the nodes of a job before it trains, or that is run there after its training."""

    name: str
    """The attempt has its output as `gates/NAME.txt`."""
    command: tuple[str, ...]
    tasks_per_node: int
    limit_s: int
    measures: bool = True
    """Whether it has to print an average bus bandwidth; else its exit status alone counts."""
    min_bus_gb_s: float | None = None
    """The least average bus bandwidth in GB/s that it has to print; None: any."""
    when: Literal["before", "after"] = "before"
    """What comes after the training is recorded, and changes nothing about its verdict."""
    srun_args: tuple[str, ...] = ()
    """Further options of its srun, such as those of its image."""


@dataclass(frozen=True)
class Change:
    """One thing that a resume changes of its run; None stands for a value that was or is not stated."""

    key: str
    before: str | None
    after: str | None
    needs_permission: bool
    """Whether another training would go on."""
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {_shortened(self.before)} -> {_shortened(self.after)} ({self.why})"


def _shortened(value: str | None) -> str:
    if value is None:
        return "not stated"
    return value if len(value) <= 60 else f"{value[:57]}..."


@dataclass(frozen=True)
class Plan:
    """One run, decided. Written to plan.json; the same plan gives the same scripts, byte for byte."""

    version: int
    launcher: str
    backend: BackendTraits
    name: str
    run_id: str
    run_dir: str
    shared: bool
    shared_run_root: bool
    """Whether users of one group share the run root."""
    submission: int
    """Which start of this run it is: 0 for a new one, one more for each --resume."""
    recipe: str
    cluster: str
    device: str
    runtime: str
    runtime_origin: str | None
    """Why that runtime: the option, the profile, or what the cluster has."""
    image: PlannedImage | None
    container: Container | None
    """None on the bare machine."""
    python: str
    launcher_python: str
    """The interpreter of the launcher's own functions on the nodes, outside any container."""
    layout: RankLayout
    network: str | None
    """The profile's network and what a run on it is held to, for people; the job reads argv's options."""
    placement: tuple[str, ...]
    """Which nodes hold the groups of each kind of parallelism, as far as their sizes are known."""
    overrides: tuple[str, ...]
    environment: tuple[Variable, ...]
    mounts: tuple[Mount, ...]
    profiler: ProfilerPlan | None
    directives: tuple[tuple[str, str | None], ...]
    """sbatch's options in the order of the script; None is a flag without a value."""
    token: str
    """What identifies this submission among all others: in the comment of its job, and the nonce of its lease."""
    stop_s: int
    """How many seconds before the end of its job the ranks are asked to save and to stop."""
    step: Step
    rendezvous: RendezvousPlan
    argv: "JobRequest"
    """The content of argv.json."""
    code: tuple[tuple[str, str], ...]
    """What is copied below code/: the file's path there, and its source."""
    request: dict[str, Any]
    """What was asked for, so that --resume can ask for it again."""
    unchecked: tuple[str, ...]
    """What only running the recipe can tell."""
    warnings: tuple[str, ...]
    source: dict[str, Any] | None = None
    """The project of the recipe's file in git: commit, branch, changed files and their diff; None outside one."""
    shipped: dict[str, int] | None = None
    """Number (`files`) and size (`bytes`) of the user's own files that travel; None for a recipe of Megatron Bridge."""
    code_digest: str | None = None
    """Of the recipe's files, and of an entrypoint of the user's own; None where that was not computed."""
    bridge: str | None = None
    """The release of Megatron Bridge that the job finds; None where it is unknown."""
    spares: Spares | None = None
    """None where the job holds no more nodes than train."""
    gates: tuple[Gate, ...] = ()
    """Programs that have to pass before the ranks start, and programs that are run after them, in their order."""
    changes: tuple[Change, ...] = ()
    """What a resume changes, compared with the attempt before."""
    allocation: AllocationPart | None = None
    """What is taken of the allocation that this shell is in; None for other runs."""
    guesses: tuple[str, ...] = ()
    """What is unknown and changes the job: a wrong guess costs its time in the queue."""
    memory: dict[str, Any] | None = None
    """The estimate of launcher/planning/memory in bytes; None where nothing was checked, or no formula fits."""
    peak_tflops: float | None = None
    """The dense bf16 peak of one GPU by the cluster profile; None where that does not state it."""
    checkpoints: dict[str, Any] | None = None
    """Size and number of the checkpoints as launcher/planning/checkpoint_space.py estimates them; None as above."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.layout.world_size

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values: the backend by its name, and the world size where readers look for it."""
        return {**dataclasses.asdict(self), "backend": self.backend.name, "world_size": self.world_size}

    def to_json(self) -> str:
        """Return the text of plan.json."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    def argv_json(self) -> str:
        """Return the text of argv.json."""
        return json.dumps(self.argv, indent=1, sort_keys=True) + "\n"
