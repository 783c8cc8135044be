"""The cluster profile: facts about a site that hold for all of its users."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from launcher.config.model import LARGEST, VARIABLE, Model
from launcher.config.texts import plain, slurm_time
from launcher.contract.fabrics import FABRICS
from launcher.contract.variables import RANK_VARIABLES, is_secret
from launcher.runtimes import AUTOMATIC, RUNTIMES

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(gt=0)]
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
Limit = Annotated[float, Meta(ge=1)]

_RUNTIMES = (*RUNTIMES, AUTOMATIC)
if TYPE_CHECKING:
    Fabric = str
    Runtime = str
else:
    Fabric = Literal[tuple(FABRICS)]
    Runtime = Literal[_RUNTIMES]
EnvironmentName = Annotated[str, Meta(pattern=VARIABLE)]
Environment = dict[EnvironmentName, str]


def _no_rank_variables_and_no_secrets(names: Iterable[str]) -> None:
    for name in names:
        if name in RANK_VARIABLES:
            raise ValueError(f"{name} cannot be set: step.sh sets it for each rank")
        if is_secret(name):
            raise ValueError(f"{name} looks like a secret: list its name in `inherit` and set it in your shell")


class ExpectedPerformance(Model, frozen=True, kw_only=True):
    """Performance of a healthy node; None where it has not been measured."""

    matmul_tflops: Positive | None = None
    """Dense bf16 matrix product of 8192 x 8192 x 8192 on one GPU, TFLOP/s."""

    all_reduce_node_gbs: Positive | None = None
    """Bus bandwidth of a large all-reduce over the GPUs of one node, GB/s (10^9 bytes per second)."""

    all_reduce_gbs: Positive | None = None
    """Bus bandwidth of a large all-reduce across nodes, GB/s."""


class Retry(Model, frozen=True, kw_only=True):
    """How a run that keeps going is continued, and when it gives up."""

    without_progress: Annotated[Count, Meta(le=100)] = 3
    """Number of attempts in a row without a newer checkpoint after which the run ends; preempted ones do not count."""

    backoff_s: Annotated[float, Meta(ge=0, le=3600)] = 30
    """Seconds before the next attempt after one without progress; doubled for each further one, up to 10 minutes."""

    strikes: Count = 2
    """Number of failures that point at a node after which it is excluded; an error of its hardware counts at once."""

    strike_hours: Positive = 24
    """Number of hours for which a strike counts."""

    excluded_percent: Annotated[float, Meta(ge=0, le=100)] = 10
    """The most nodes that are excluded, in percent of the run's nodes; one node always may be."""


def _port_range(text: str) -> None:
    first, _, last = text.partition("-")
    if not 1024 <= int(first) <= int(last) <= 65535:
        raise ValueError("ports are 1024 to 65535, the first one first, such as `20000-28999`")


class Rendezvous(Model, frozen=True, kw_only=True):
    """Where the ranks of a run meet: at most one of `suffix`, `interface` and `command` is set.

    By default the address is Slurm's own one of the first node (NodeAddr): at some sites that of a network for
    administration.
    """

    text_check: ClassVar[Callable[[str], object]] = plain
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = {"ports": _port_range}

    suffix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]+\Z")] | None = None
    """What the name of the first node is followed by in another network: `-ib`, `.hsn.example.org`."""

    interface: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]+\Z")] | None = None
    """The network interface of the first node whose address is taken, such as `ib0` or `hsn0`; torch's gloo and NCCL's
    sockets use it on all nodes, too (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)."""

    command: Text | None = None
    """A command of bash that runs on the first node and prints the address or name."""

    ports: Annotated[str, Meta(pattern=r"^[0-9]{1,5}-[0-9]{1,5}\Z")] = "20000-28999"
    """First and last port of which a run takes one by the number of its job: reachable from all nodes, and outside
    the range from which the nodes' kernels take ports by themselves (net.ipv4.ip_local_port_range)."""

    @property
    def port_range(self) -> tuple[int, int]:
        """Return the first and the last port."""
        first, _, last = self.ports.partition("-")
        return int(first), int(last)


_OF_THE_LAUNCHER: tuple[str, ...] = (
    *("batchmode", "forwardagent", "forwardx11", "clearallforwardings", "permitlocalcommand", "controlmaster"),
    *("controlpath", "controlpersist", "loglevel", "requesttty", "remotecommand"),
)
"""Options that launcher/remote/connection.py sets and a profile may not."""


def _ssh_options(options: tuple[str, ...]) -> None:
    for text in options:
        name, given, value = text.partition("=")
        if not given or not value or not name.isalnum():
            raise ValueError(f"{text!r} is not an option of ssh_config(5), NAME=VALUE")
        if name.lower() in _OF_THE_LAUNCHER:
            raise ValueError(f"{name} is the launcher's own: it asks nothing, forwards nothing and shares connections")


class Ssh(Model, frozen=True, kw_only=True):
    """How other machines reach the cluster: `launcher submit --cluster NAME` there goes over the system's ssh.

    On the host itself, by its name, this table has no effect.
    """

    text_check: ClassVar[Callable[[str], object]] = plain
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = {"options": _ssh_options}

    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:-]*\Z")]
    """The login node as ssh takes it: a name of ssh_config(5), or USER@HOST."""

    run_root: Text | None = None
    """The directory of runs on the host; a relative one begins at the home directory. Default: the profile's
    `run_root`, else `runs`."""

    python: Text = "python3"
    """The interpreter on the host that has the launcher, of the same release as here."""

    options: tuple[Text, ...] = ()
    """Options of ssh_config(5) for this host, `NAME=VALUE`; better in ~/.ssh/config."""


def _one_address(stated: Rendezvous) -> None:
    names = [name for name in ("suffix", "interface", "command") if getattr(stated, name) is not None]
    if len(names) > 1:
        raise ValueError(f"one of suffix, interface and command gives the address, and {' and '.join(names)} are set")


class Cluster(Model, frozen=True, kw_only=True):
    """A cluster profile. Where a site states no value, Slurm's own default applies."""

    text_check: ClassVar[Callable[[str], object]] = plain
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = {
        "rendezvous": _one_address,
        "time_limit": slurm_time,
        **dict.fromkeys(("env", "env_unset", "env_prepend", "host_env"), _no_rank_variables_and_no_secrets),
    }

    name: str
    """The profile's name: the file name without `.toml`."""

    description: str = ""
    """One line for `launcher clusters list`."""

    extends: str | None = None
    """The profile that this one is based on."""

    ssh: Ssh | None = None
    """How other machines reach this cluster; None where commands are given on its login node."""

    scheduler: Literal["slurm", "local"] = "slurm"
    """What starts the ranks: Slurm, or the launcher itself on this machine."""

    fabric: Fabric | None = None
    """The network between nodes; None if the profile does not state it."""

    network: Literal["require", "warn", "off"] = "warn"
    """What happens to a run whose NCCL does not select this fabric: `require` ends it with the reason, `warn` lets it
    continue with a warning, `off` disables the check."""

    nics_per_node: Count | None = None
    """Number of fabric devices on a node: EFA devices, or InfiniBand HCAs for GPU traffic."""

    gdr: bool = True
    """Whether the fabric's adapters read and write the memory of the GPUs themselves (GPUDirect RDMA), which a run that
    requires its network is held to; false for GPUs or adapters that cannot."""

    sharp: bool = False
    """Whether NCCL uses in-network reduction (SHARP): sets NCCL_COLLNET_ENABLE=1 and the related variables."""

    nvlink_domain_nodes: Count = 1
    """Number of nodes in one NVLink domain: 1 where NVLink ends at the node, 18 for a rack of GB200 NVL72."""

    topology: Literal["block"] | None = None
    """Slurm's topology plugin, if jobs can request parts of the topology: `block` supports --segment."""

    segment_max: Count | None = None
    """The most nodes that a job's `--segment` asks for. Default: `nvlink_domain_nodes`."""

    rendezvous: Rendezvous = Rendezvous()
    """Where the ranks of a run meet: address and ports."""

    numa_binding: bool = True
    """Whether each rank is bound to the CPUs and memory next to its GPU, within the CPUs that Slurm allocated."""

    gpu: Text | None = None
    """The GPU model in NVIDIA's short form: A100, H100, H200, B200, B300, GB200, GB300."""

    peak_tflops: Positive | None = None
    """The dense bf16 peak of one GPU, TFLOP/s, as its maker states it: MFU is the share of this that the model's
    operations reach. A profile that changes `gpu` states it anew. None: MFU is unknown."""

    telemetry_s: Annotated[float, Meta(ge=0, le=3600)] = 10
    """Seconds between samples of clocks, power, temperatures and errors of a node's GPUs and of what its network
    adapters move; 0 for none."""

    hang_limit_s: Limit = 300
    """Seconds without a step after which an attempt is ended as a hang, or 30 times the slowest of the last 100 steps
    where that is longer."""

    start_limit_s: Limit = 1800
    """Seconds that each part of the start may take: starting the program, and making the model and its data."""

    first_step_limit_s: Limit = 1800
    """Seconds that the first step may take, which compiles and allocates."""

    evaluation_limit_s: Limit = 1800
    """Seconds that an evaluation may take."""

    save_limit_s: Limit = 1800
    """Seconds that saving a checkpoint may take, and the end of a rank."""

    expect: ExpectedPerformance = ExpectedPerformance()
    """Performance of a healthy node, which `launcher doctor` compares with."""

    device: Literal["auto", "gpu", "cpu"] = "gpu"
    """What ranks compute on. `gpu` ends a run that finds no GPU, `cpu` selects the gloo backend, `auto` detects."""

    gpus_per_node: Annotated[Count, Meta(le=1024)] | None = None
    """Number of GPUs on a node; one rank is started for each."""

    cpus_per_task: Count | None = None
    """Number of CPUs for one rank of a batch job. Default: the CPUs of a node of the partition, divided by its GPUs.
    In an allocation of salloc's the ranks share the CPUs that it has."""

    runtime: Runtime = AUTOMATIC
    """How a task enters its image: `pyxis` through srun's options, `enroot` or `bwrap` (bubblewrap) through enter.sh
    on each node, `none` not at all (bare metal). `auto` takes the first of them that the cluster has where an image is
    named, and none where there is no image."""

    image: Text | None = None
    """The image of runs that name none, as in --image: a name in the store, a reference, or an absolute path."""

    image_store: Text | None = None
    """The directory of the launcher's images, on a file system that all nodes share; `~` and `$NAME` are expanded.
    Default: `launcher/images/PROFILE` below XDG_DATA_HOME (`~/.local/share`)."""

    image_directories: tuple[Text, ...] = ()
    """Further directories that are searched for the image file of a reference, such as CloudAI's cache; read only."""

    architecture: Literal["x86_64", "aarch64"] | None = None
    """Architecture of the nodes, as `uname -m` prints it; images of another one are refused. None: not checked."""

    container_writable: bool = True
    """Whether a container's root is writable: Megatron compiles helpers and writes caches into its own directories."""

    scratch: Text | None = None
    """A directory on each node's local disk, where enroot and bwrap unpack images (and keep a container's /tmp), such
    as `/raid/$USER`; variables are expanded on the node. Default: `${TMPDIR:-/tmp}` for bwrap, ENROOT_DATA_PATH for
    enroot."""

    python: str | None = None
    """The interpreter that runs the entrypoint. Default: `python3` in a container, else the launcher's own."""

    launcher_python: Text | None = None
    """The interpreter that runs the launcher's own functions on the nodes (image builds, the verdict of a run whose
    container does not start). Default: the interpreter of this launcher."""

    run_root: str | None = None
    """The directory of all runs, on a file system that all nodes share; `~` and `$NAME` are expanded. Default: `runs`
    in the current directory."""

    shared_run_root: bool = False
    """Whether users of one group share `run_root`, which must then be setgid (`chmod 2775`). Otherwise directories of
    other users below it are refused."""

    mpi: str | None = None
    """The value of srun's --mpi: `none`, `pmix`, `pmi2`; see `srun --mpi=list`."""

    partition: str | None = None
    """The Slurm partition. Default: Slurm's default partition."""

    account: str | None = None
    """The Slurm account. Default: the user's default account."""

    qos: str | None = None
    """The Slurm quality of service. Default: Slurm's choice."""

    time_limit: Text | None = None
    """The time limit in Slurm's notation, such as `30:00` (minutes and seconds) or `1-12:00:00`."""

    ft_launcher: bool = False
    """Whether the site starts the ranks' monitors of NVIDIA's fault tolerance package, which `ft_launcher` starts
    elsewhere; without it a configuration with `ft.enable_ft_package=true` is refused."""

    allow_vboost: bool = False
    """Whether a run that asks for it (`enable_vboost` of CloudAI's files) may steer more of the GPUs' power to their
    tensor cores: `sudo -n nvidia-smi boost-slider --vboost 1` on each node before its ranks start."""

    keep_going: bool = False
    """Whether batch runs are continued by themselves until they have finished, as with --keep-going."""

    retry: Retry = Retry()
    """How such a run is continued, and when it gives up."""

    directives: dict[str, bool | int | str] = field(default_factory=dict)
    """sbatch options by their long names: a value sets the option, true adds a flag, false removes a generated one."""

    srun_args: tuple[str, ...] = ()
    """Further arguments of the step's srun, one string each: `--network=...`."""

    mounts: tuple[str, ...] = ()
    """`SRC[:DST[:ro]]` for every container; without effect where the runtime is `none`."""

    env: Environment = field(default_factory=dict)
    """Variables of each rank, set inside the container."""

    env_unset: tuple[EnvironmentName, ...] = ()
    """Names of variables that are removed from what the image sets."""

    env_prepend: Environment = field(default_factory=dict)
    """Directories that are put in front of a list which the image sets: `LD_LIBRARY_PATH = "/usr/local/gib/lib64"`."""

    env_source: tuple[Text, ...] = ()
    """Files of bash in the container that each rank's shell reads first: /usr/local/gib/scripts/set_nccl_env.sh. A file
    that is missing ends the run. What they set yields to every other variable. Without effect on the bare machine."""

    host_env: Environment = field(default_factory=dict)
    """Variables outside the container, for enroot's hooks: NVIDIA_VISIBLE_DEVICES, MELLANOX_VISIBLE_DEVICES, ..."""

    inherit: tuple[EnvironmentName, ...] = ()
    """Names of variables that are passed on from the submitting shell, in addition to those that every task gets."""
