"""What a virtual cluster is made of, and the files that tell Slurm so. Pure: options in, texts out."""

import os
from dataclasses import dataclass, field
from pathlib import Path

PORTS_PER_CLUSTER = 64
MAX_NODES = PORTS_PER_CLUSTER - 5
DBD_PORT, DATABASE_PORT = PORTS_PER_CLUSTER - 1, PORTS_PER_CLUSTER - 2
"""Places of slurmdbd and its database in a cluster's range of ports."""


@dataclass(frozen=True)
class NodeShape:
    """The CPUs, GPUs and memory of a node, as Slurm counts them."""

    sockets: int
    cores: int
    """Of one socket."""
    threads: int
    """Of one core."""
    gpus: int
    memory_mb: int

    @property
    def cpus(self) -> int:
        return self.sockets * self.cores * self.threads


@dataclass(frozen=True)
class ClusterOptions:
    """The shape of a virtual cluster."""

    nodes: int = 4
    slots: int = 8
    """Task slots (Slurm's CPUs) of a node, however few cores the machine has."""
    gpus: int = 8
    """Stand-in GPUs of a node: links to /dev/null that Slurm counts and hands out."""
    gpu_type: str | None = None
    """The GPUs' type in GRES, such as `h100`; None for a site that names none."""
    select: str = "select/cons_tres"
    """SelectType; `select/cons_res`, the older one, knows --gres and none of the options that begin with --gpus."""
    job_submit: str | None = None
    """The text of job_submit.lua, with which a site checks and changes jobs; None without."""
    accounting: bool = False
    """Whether slurmdbd keeps accounts: the account `gpt` has this user, and jobs of others are refused."""
    ephemeral_ports: str | None = None
    """What nodes with namespaces read in ip_local_port_range, such as `10000 65535`; None: the machine's."""
    memory_mb: int = 4096
    shapes: tuple[NodeShape, ...] = ()
    """The shape of each node, instead of `slots`, `gpus` and `memory_mb`; as many as `nodes`."""
    namespaces: bool | None = None
    """Own host name, /etc/hosts, /run and process tree for each node; None: where the machine allows it."""
    pyxis: Path | None = None
    """spank_pyxis.so, compiled against this very Slurm."""
    message_timeout_s: int = 10
    """How long a client waits for a controller that does not answer (Slurm's default: 10)."""
    min_job_age_s: int = 3600
    """How long `squeue` remembers an ended job (Slurm's default: 300)."""
    node_timeout_s: int = 10
    """SlurmdTimeout: how long until a dead node is declared down (Slurm's default: 300)."""
    kill_wait_s: int = 2
    """KillWait: between SIGTERM and SIGKILL at the end of a job (Slurm's default: 30)."""
    grace_s: int | None = None
    """GraceTime of the partition `low`, whose jobs those of the partition `urgent` preempt; None: there are neither."""
    start_timeout_s: float = 30
    extra: tuple[str, ...] = field(default=())
    """More lines of slurm.conf; a later line wins over an earlier one."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise ValueError(f"a virtual cluster has 1 to {MAX_NODES} nodes, not {self.nodes}")
        if self.shapes and len(self.shapes) != self.nodes:
            raise ValueError(f"{len(self.shapes)} shapes for {self.nodes} nodes")

    def shape(self, number: int) -> NodeShape:
        """The shape of node `number`, from 1."""
        if self.shapes:
            return self.shapes[number - 1]
        return NodeShape(1, self.slots, 1, self.gpus, self.memory_mb)

    @property
    def most_gpus(self) -> int:
        return max(self.shape(number).gpus for number in range(1, self.nodes + 1))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


def address(number: int, namespaces: bool) -> str:
    """Address of node `number` (from 1): nodes with their own /etc/hosts each have one, others share the machine's."""
    return f"127.0.0.{10 + number}" if namespaces else "127.0.0.1"


def hosts(options: ClusterOptions) -> str:
    """/etc/hosts as the nodes see it: every node's name and its name in a second network, with its own address."""
    lines = [f"{address(number, True)} {name} {name}-ib" for number, name in enumerate(options.names, start=1)]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def node_lines(options: ClusterOptions, *, port: int, namespaces: bool) -> list[str]:
    """slurm.conf's lines of the nodes."""
    kind = f"{options.gpu_type}:" if options.gpu_type else ""
    lines = []
    for number, name in enumerate(options.names, start=1):
        shape = options.shape(number)
        gres = f" Gres=gpu:{kind}{shape.gpus}" if shape.gpus else ""
        cpus = f"CPUs={shape.cpus} Sockets={shape.sockets} CoresPerSocket={shape.cores} ThreadsPerCore={shape.threads}"
        where = f"NodeHostname={name} NodeAddr={address(number, namespaces)} Port={port + 1 + number}"
        lines.append(f"NodeName={name} {where} {cpus} RealMemory={shape.memory_mb}{gres}")
    return lines


def slurm_conf(directory: Path, options: ClusterOptions, *, user: str, port: int, namespaces: bool) -> str:
    """slurm.conf. Ports: `port` is the guard of the range, then the controller's, then one per node."""
    d = directory
    lines = [
        "ClusterName=virtual",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={port + 1}",
        f"FirstJobId={first_job_id()}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        # A requeued job may start again only after cred_expire, by default 120 s.
        f"AuthInfo=socket={d}/run/munge.sock,cred_expire=5",
        "CredType=cred/munge",
        f"StateSaveLocation={d}/state",
        f"SlurmdSpoolDir={d}/spool/%n",
        f"SlurmctldPidFile={d}/run/slurmctld.pid",
        f"SlurmdPidFile={d}/run/%n.pid",
        f"SlurmctldLogFile={d}/log/slurmctld.log",
        f"SlurmdLogFile={d}/log/%n.log",
        f"PlugStackConfig={d}/etc/plugstack.conf",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "ReturnToService=2",
        # A job that no partition can ever start is refused at once, as on most large clusters.
        "EnforcePartLimits=ALL",
        f"SelectType={options.select}",
        "SelectTypeParameters=CR_Core",
        # The nodes have as many CPUs as we say, not as many as the machine.
        "SlurmdParameters=config_overrides",
        "JobAcctGatherType=jobacct_gather/none",
        f"JobCompType=jobcomp/filetxt\nJobCompLoc={d}/log/jobcomp.txt",
        f"KillWait={options.kill_wait_s}",
        f"MinJobAge={options.min_job_age_s}",
        f"MessageTimeout={options.message_timeout_s}",
        "SlurmctldTimeout=30",
        f"SlurmdTimeout={options.node_timeout_s}",
        "SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1",
    ]
    if options.most_gpus:
        lines.append("GresTypes=gpu")
    if options.job_submit is not None:
        lines.append("JobSubmitPlugins=lua")
    if options.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={port + DBD_PORT}",
            f"AccountingStoragePass={d}/run/munge.sock",
            "AccountingStorageEnforce=associations",
            "AccountingStorageTRES=gres/gpu",
        ]
    lines += node_lines(options, port=port, namespaces=namespaces)
    lines += [
        "PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        "PartitionName=short Nodes=ALL MaxTime=10 MaxNodes=1 State=UP",
        *_preemption(options),
        *options.extra,
    ]
    return "\n".join([*lines, ""])


def _preemption(options: ClusterOptions) -> list[str]:
    """slurm.conf's lines of two more partitions, one of which takes the other one's nodes."""
    if options.grace_s is None:
        return []
    return [
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        f"PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime={options.grace_s} State=UP",
        "PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP",
    ]


def gres_conf(directory: Path, options: ClusterOptions) -> str:
    """gres.conf: Slurm insists on character devices, and links to /dev/null are."""
    if not options.most_gpus:
        return ""
    lines = ["AutoDetect=off"]
    kind = f"Type={options.gpu_type} " if options.gpu_type else ""
    counts = [options.shape(number).gpus for number in range(1, options.nodes + 1)]
    for count in sorted(set(counts) - {0}):
        names = ",".join(name for name, own in zip(options.names, counts, strict=True) if own == count)
        files = f"{directory}/dev/nvidia[0-{count - 1}]" if count > 1 else f"{directory}/dev/nvidia0"
        lines.append(f"NodeName={names} Name=gpu {kind}File={files}")
    return "\n".join([*lines, ""])


def slurmdbd_conf(directory: Path, *, user: str, port: int) -> str:
    """slurmdbd.conf, for a database that listens on this machine alone."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={directory}/run/munge.sock",
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={port + DBD_PORT}",
        f"SlurmUser={user}",
        f"LogFile={directory}/log/slurmdbd.log",
        f"PidFile={directory}/run/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={port + DATABASE_PORT}",
        "StorageUser=slurm",
        "StoragePass=slurm",
        "StorageLoc=slurm",
    ]
    return "\n".join([*lines, ""])


def first_job_id() -> int:
    """Return the first number for jobs: another one for each worker of pytest-xdist.

    step.sh derives a run's port from the job's number modulo 9000; jobs of two clusters of this machine with equal
    numbers would listen at the same one.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return 1 + int(worker) % 8 * 1125


def write_files(directory: Path, options: ClusterOptions, *, user: str, port: int, namespaces: bool) -> None:
    """Make the directory of a cluster: etc/ with all configuration, and the folders that the daemons write to."""
    for folder in ("etc", "log", "run", "state", "spool", "dev"):
        (directory / folder).mkdir(mode=0o755, parents=True)
    for name in options.names:
        (directory / "spool" / name).mkdir(mode=0o755)
        (directory / "run" / name).mkdir(mode=0o755)
    for number in range(options.most_gpus):
        (directory / "dev" / f"nvidia{number}").symlink_to("/dev/null")
    etc = directory / "etc"
    (etc / "hosts").write_text(hosts(options))
    (etc / "slurm.conf").write_text(slurm_conf(directory, options, user=user, port=port, namespaces=namespaces))
    (etc / "gres.conf").write_text(gres_conf(directory, options))
    if options.job_submit is not None:
        (etc / "job_submit.lua").write_text(options.job_submit)
    if options.accounting:
        (etc / "slurmdbd.conf").touch(mode=0o600)
        (etc / "slurmdbd.conf").write_text(slurmdbd_conf(directory, user=user, port=port))
    if options.ephemeral_ports is not None:
        (etc / "ip_local_port_range").write_text(options.ephemeral_ports.replace(" ", "\t") + "\n")
    (etc / "plugstack.conf").write_text(f"required {options.pyxis}\n" if options.pyxis else "")
    # Never used with these plugins, but slurmd of some releases wants to read it.
    (etc / "cgroup.conf").write_text("")
    key = os.open(etc / "munge.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(key, os.urandom(1024))
    finally:
        os.close(key)
