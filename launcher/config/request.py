"""What a user can ask for of one run. The keys of a job file, and the options of the command line, are these."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta, field, structs

from launcher.config.cluster import Count, EnvironmentName, Limit, Runtime, Text
from launcher.config.model import Model
from launcher.config.texts import arguments_without_secret, plain, slurm_time, without_secret
from launcher.contract.variables import RANK_VARIABLES, is_secret

if TYPE_CHECKING:
    from typing_extensions import Self


def assignment_key(text: str) -> str:
    """Return the key that an assignment sets, adds or removes."""
    return text.partition("=")[0].lstrip("+~")


def _assignments(texts: tuple[str, ...]) -> None:
    for text in texts:
        without_secret(text)


def _plain_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError("a run's name is 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit")


def _environment(entries: tuple[str, ...]) -> None:
    for entry in entries:
        name, given, _ = entry.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not a name of an environment variable")
        if name in RANK_VARIABLES or name.startswith(("SLURM_", "LAUNCHER_")):
            raise ValueError(f"{name} is set for each rank and cannot be given")
        if given and is_secret(name):
            raise ValueError(
                f"{name} looks like a secret: its value would be written into a script. "
                f"Set it in your shell and pass it on by name: --env {name}"
            )


def _time(text: str | None) -> None:
    if text is not None:
        slurm_time(text)


class Request(Model, frozen=True, kw_only=True):
    """One run, as asked for. None means not stated: a weaker layer or a default decides."""

    text_check: ClassVar[Callable[[str], object]] = plain
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = {
        "assignments": _assignments,
        "mlm_arguments": arguments_without_secret,
        "time": _time,
        "env": _environment,
        "name": _plain_name,
    }

    _stated: frozenset[str] = frozenset()
    """The fields that were stated, also those with the value that a default has."""

    recipe: Text | None = None
    """`path.py[:function]`, the name of a shipped one, `bridge:NAME`, or `mlm:gpt` and `mlm:SCRIPT.py`."""

    assignments: tuple[str, ...] = ()
    """`KEY=VALUE` in the user's order: arguments of `configure` and Hydra overrides."""

    mlm_source: Text | None = None
    """A checkout of Megatron-LM, `DIR`, `DIR@COMMIT` or `COMMIT`, for the recipe `mlm:SCRIPT.py`."""

    mlm_arguments: tuple[str, ...] = ()
    """Megatron-LM's own arguments, of a recipe `mlm:...`."""

    mcore: Text | None = None
    """The Megatron-Core that the run imports in place of the image's: `DIR`, `DIR@COMMIT`, `COMMIT`, `main`, `dev`."""

    cluster: Text | None = None
    nodes: Annotated[Count, Meta(le=100_000)] | None = None
    gpus_per_node: Annotated[Count, Meta(le=1024)] | None = None
    """Ranks on each node, one per GPU."""

    time: Text | None = None
    """The time limit in Slurm's notation: `30` (minutes), `2:00:00`, `1-12:00:00`."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    nodelist: Text | None = None
    exclude: Text | None = None
    image: Text | None = None
    """A name in the store, a digest, a reference, or the path of a squashfs file."""

    runtime: Runtime | None = None
    """How tasks enter the image; `auto` takes what the cluster has, also where the profile names a runtime."""

    mounts: tuple[Text, ...] = ()
    ship: tuple[Text, ...] = ()
    """Files and directories that travel with the recipe, besides its imports and what git tracks beside it."""

    default_image: Text | None = None
    default_mounts: tuple[Text, ...] = ()
    """What srun.sh passes on: used where the runtime is a container and nothing else names an image or a mount."""

    env: tuple[Text, ...] = ()
    """`NAME=VALUE`, or `NAME` to pass the submitting shell's value on."""

    expand_env: tuple[Text, ...] = ()
    """Names of those variables whose `$NAME` and `${NAME}` the job replaces by its own variables' values."""

    python: Text | None = None
    """The interpreter that runs the entrypoint, in place of the profile's."""

    name: str | None = None
    run_root: Text | None = None
    shared: bool = False
    """Whether the run directory can be read by others; else it is the user's alone (umask 077)."""

    resume: Text | None = None
    allow_changes: tuple[Text, ...] = ()
    """Keys that a resumed run may change although another training goes on then."""

    attempts: Annotated[Count, Meta(le=100)] | None = None
    """How many jobs are queued for a batch run, each behind the one before."""

    spares: Annotated[Count, Meta(le=1000)] | None = None
    """Nodes that a batch job holds beyond those that train, where they are free; a check at its start chooses."""

    gates: tuple[Text, ...] = ()
    """Programs that have to pass on the nodes of a batch job before it trains, or that are run there after it, each as
    a JSON object of the fields of `planning.model.Gate`: what `launcher cloudai` makes of pre_test and post_test."""

    allow_checkpoint_load: bool = False
    """Whether `checkpoint.load` may name a directory that holds a checkpoint."""

    keep_going: bool | None = None
    """Whether a batch run is continued by itself until it has finished; None: as the profile says."""

    verify: Literal["full", "budget", "sizes"] = "budget"
    """What is verified of a checkpoint before it is loaded: all sums, those that 120 s allow, or the sizes alone."""

    hang_limit_s: Limit | None = None
    """Seconds without a step after which an attempt is ended as a hang, in place of the profile's."""

    notify: Text | None = None
    """A program with its arguments, started after each attempt with a message on its standard input (JSON)."""

    notify_url: EnvironmentName | None = None
    """The name of a variable of the submitting shell that holds a URL: the message is posted to it as well."""

    init: Literal["pretrained", "random"] | None = None
    """What a new run starts from: weights that `hf_path` or `checkpoint.pretrained_checkpoint` name, or random ones.
    None: the former where something names them."""

    nsys: bool = False
    profiler: Text | None = None
    """torch, viztracer, memory, or a user's own `path.py:Class`; nsys has a switch of its own."""

    profile_steps: Text | None = None
    """`10:15`: the steps 10 to 14."""

    profile_ranks: Text | None = None
    """`0,8`, `nodes` for the first rank of each node, `all`."""

    nsys_trace: Text | None = None
    nsys_args: tuple[Text, ...] = ()
    gpu_metrics: bool = False
    nsys_from: Text | None = None
    """A directory of the host with an nsys, to be mounted into the image."""

    entrypoint: Text | None = None
    """A program of the same contract in place of the project's entrypoint.py."""

    probe: bool = False
    """Whether each rank records checksums of parameters, batches, layers and gradients, for `launcher correlate`."""

    check_config: bool | None = None
    check_on: Literal["here", "node"] | None = None
    """Where a check runs: in the image or with the stack of this machine, or in a short job on a compute node."""

    scale_batch: bool = False
    """Whether the global batch grows with the number of GPUs from the one that the recipe was written for."""

    sbatch: dict[str, bool | int | str] = field(default_factory=dict)
    """sbatch's options: a value sets one, true adds a flag, false removes what would be rendered."""

    srun_args: tuple[Text, ...] = ()

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> "Self":
        """Return the request of these values; a time limit may be a number of minutes. Raises ModelError."""
        minutes = values.get("time")
        if type(minutes) is int and abs(minutes) < 10**9:
            values = {**values, "time": str(minutes)}
        return structs.replace(super().model_validate(values), _stated=frozenset(values))

    def model_copy(self, *, update: Mapping[str, Any]) -> "Self":
        """Return the request with these values in place of its own; they count as stated."""
        return structs.replace(self, **update, _stated=self._stated.union(update))

    def stated(self) -> dict[str, Any]:
        """Return the values that were stated, by name; what a default decides is left out."""
        changed = self.model_dump(exclude_defaults=True)
        return {name: getattr(self, name) for name in self.model_fields if name in self._stated or name in changed}
