"""A cluster's profile: what is true of a site, whoever uses it."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from launcher.contract.variables import RANK_VARIABLES, is_secret
from launcher.runtimes import RUNTIMES

Text = Annotated[str, Field(min_length=1)]
Fabric = Literal["efa", "infiniband", "roce", "ethernet"]
if TYPE_CHECKING:
    Runtime = str
else:
    Runtime = Literal[tuple(RUNTIMES)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ExpectedPerformance(BaseModel):
    """Figures of a healthy node, for `launcher doctor`; leave out what was not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    matmul_tflops: Annotated[float, Field(gt=0)] | None = None
    """A bf16 matrix product of 8192 x 8192 x 8192 on one GPU, dense, TFLOP/s."""

    all_reduce_node_gbs: Annotated[float, Field(gt=0)] | None = None
    """Bus bandwidth of a large all-reduce over the GPUs of a node, GB/s (10^9 bytes)."""

    all_reduce_gbs: Annotated[float, Field(gt=0)] | None = None
    """Bus bandwidth of a large all-reduce across nodes, GB/s."""


class Cluster(BaseModel):
    """One profile. Values that a site does not state are left to Slurm's own defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The profile's name: its file's name without `.toml`."""

    description: str = ""
    """One line for `launcher clusters list`."""

    extends: str | None = None
    """The profile that this one changes."""

    scheduler: Literal["slurm", "local"] = "slurm"
    """Who starts the ranks: Slurm, or the launcher itself on this machine."""

    fabric: Fabric | None = None
    """The network between nodes. None: the profile does not say."""

    network: Literal["require", "warn", "off"] = "warn"
    """What happens to a run whose NCCL does not select this fabric: it ends with the reason (`require`), goes on with a
    warning (`warn`), or is not checked (`off`)."""

    nics_per_node: Annotated[int, Field(gt=0)] | None = None
    """Devices of the fabric on a node: EFA devices, or InfiniBand HCAs for GPU traffic."""

    sharp: bool = False
    """Whether the switches reduce (SHARP) and NCCL is to use it: NCCL_COLLNET_ENABLE=1 and what belongs to it."""

    nvlink_domain_nodes: Annotated[int, Field(gt=0)] = 1
    """Nodes that NVLink joins: 1 where it ends at the node, 18 for a rack of GB200 NVL72."""

    topology: Literal["block"] | None = None
    """Slurm's topology plugin, where a job may ask for a part of the topology: `block` understands --segment."""

    numa_binding: bool = True
    """Whether each rank is bound to the CPUs and the memory next to its GPU, within what Slurm gave it."""

    gpu: Text | None = None
    """The GPU's type in NVIDIA's short form: A100, H100, H200, B200, B300, GB200, GB300."""

    expect: ExpectedPerformance = Field(default_factory=ExpectedPerformance)
    """Figures of a healthy node, for `launcher doctor`."""

    device: Literal["auto", "gpu", "cpu"] = "gpu"
    """What ranks compute on. `gpu` ends a run that sees none, `cpu` selects the gloo back end, `auto` looks."""

    gpus_per_node: Annotated[int, Field(gt=0, le=1024)] | None = None
    """GPUs of a node: as many ranks are started on each."""

    cpus_per_task: Annotated[int, Field(gt=0)] | None = None
    """CPUs of one rank."""

    runtime: Runtime = "none"
    """How a task enters its image: through pyxis' options of srun, through enroot or bubblewrap (`bwrap`), which the
    launcher's own enter.sh calls on each node, or not at all (bare metal)."""

    image: Text | None = None
    """The image of a run that names none, said as in --image: a name in the store, a reference, an absolute path."""

    image_store: Text | None = None
    """The directory of the launcher's images, on a file system that every node sees; `~` and `$NAME` are expanded.
    Default: `launcher/images/NAME OF THE PROFILE` below XDG_DATA_HOME (`~/.local/share`)."""

    image_directories: tuple[Text, ...] = ()
    """Further directories where a reference's image file is looked for, such as CloudAI's cache; never written to."""

    architecture: Literal["x86_64", "aarch64"] | None = None
    """What the nodes are, as `uname -m` prints it: an image of another kind is refused. None: not checked."""

    container_writable: bool = True
    """Whether a container's root can be written: Megatron compiles helpers and caches below its own directories."""

    scratch: Text | None = None
    """A directory of each node's own disk, where enroot and bwrap unpack images (and keep a container's /tmp); it is
    expanded on the node: `/raid/$USER`. Default: `${TMPDIR:-/tmp}` (bwrap), enroot's own ENROOT_DATA_PATH (enroot)."""

    python: str | None = None
    """The interpreter that runs the entrypoint: default `python3` in a container, the launcher's own without one."""

    launcher_python: Text | None = None
    """The interpreter that runs the launcher's own functions on the nodes (image builds, a verdict where no container
    starts): default the one that the launcher itself runs with."""

    run_root: str | None = None
    """The directory of all runs, on a file system that every node sees; `~` and `$NAME` are expanded."""

    mpi: str | None = None
    """srun's --mpi: `none`, `pmix`, `pmi2`; see `srun --mpi=list`."""

    partition: str | None = None
    """Slurm's --partition."""

    account: str | None = None
    """Slurm's --account."""

    qos: str | None = None
    """Slurm's --qos."""

    time_limit: str | None = None
    """Slurm's notation, such as `30:00` (minutes and seconds) or `1-12:00:00`."""

    directives: dict[str, bool | int | str] = Field(default_factory=dict)
    """sbatch's options by their long names: a value sets one, true adds a flag, false removes a rendered one."""

    srun_args: tuple[str, ...] = ()
    """Further arguments of the step's srun, each whole: `--network=...`."""

    mounts: tuple[str, ...] = ()
    """`SRC[:DST[:ro]]` of every container; where the runtime is none, there are none."""

    env: dict[EnvironmentName, str] = Field(default_factory=dict)
    """Variables of each rank, set inside the container."""

    host_env: dict[EnvironmentName, str] = Field(default_factory=dict)
    """Variables on srun's side, for enroot's hooks: NVIDIA_VISIBLE_DEVICES, MELLANOX_VISIBLE_DEVICES, ..."""

    inherit: tuple[EnvironmentName, ...] = ()
    """Names that the submitting shell passes on, besides the few that every task gets."""

    @field_validator("env", "host_env")
    @classmethod
    def _no_rank_variables_and_no_secrets(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values:
            if name in RANK_VARIABLES:
                raise ValueError(f"{name} is set for each rank by step.sh and cannot be given")
            if is_secret(name):
                raise ValueError(f"{name} looks like a secret: name it in `inherit` and set it in your shell")
        return values
