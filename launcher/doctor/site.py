"""Answers of Slurm and this machine, collected once for the checks of the login node."""

import os
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from launcher._util.errors import CommandError, LauncherError, SlurmError
from launcher._util.shell import Result, Shell
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.host import HostContext
from launcher.planning.container import chosen_runtime
from launcher.planning.model import Plan
from launcher.runtimes.model import ContainerRuntime
from launcher.slurm import info
from launcher.slurm.ask import ask
from launcher.slurm.control import hostnames
from launcher.slurm.nodes import Node, read_nodes

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class CommandOutput:
    """Output of a program; `text` is None and `why` has the reason if there is none."""

    text: str | None
    why: str = ""


@dataclass(frozen=True)
class Site:
    """A cluster as Slurm and this machine describe it. If Slurm did not answer, all of its values are empty."""

    cluster: Cluster
    request: Request
    host: HostContext
    slurm_error: str | None = None
    """Why Slurm did not answer; None if it did, or the profile has no Slurm."""
    controllers: str = ""
    """Output of `scontrol ping`."""
    release: tuple[int, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    """Output of `scontrol show config`."""
    groups: tuple[info.NodeGroup, ...] = ()
    nodes: tuple[Node, ...] = ()
    mpi_types: tuple[str, ...] = ()
    srun_help: str | None = None
    munge: CommandOutput = CommandOutput(None, "not asked")
    associations: CommandOutput = CommandOutput(None, "not asked")
    nodelist: tuple[str, ...] = ()
    """Nodes that the request names."""
    memlock: int = -1
    """Limit of locked memory in bytes; -1 is unlimited."""
    files: tuple[int, int] = (-1, -1)
    """Soft and hard limit of open files; -1 is unlimited."""

    @property
    def has_slurm(self) -> bool:
        """Return whether the profile describes a cluster with Slurm."""
        return self.cluster.scheduler == "slurm"

    @property
    def runtime(self) -> ContainerRuntime:
        """Return the runtime that a run would use: the request's, else the profile's."""
        return chosen_runtime(self.request, self.cluster)

    @property
    def why_unknown(self) -> str | None:
        """Return why nothing is known about Slurm; None if it answered."""
        if not self.has_slurm:
            return "the profile has no Slurm"
        return None if self.slurm_error is None else "Slurm did not answer"

    @property
    def partition(self) -> str | None:
        """Return the partition of a run: the request's, else the profile's, else Slurm's default."""
        named = self.request.partition or self.cluster.partition or str(self.cluster.directives.get("partition") or "")
        return named or next((group.partition for group in self.groups if group.default), None)

    @property
    def own_nodes(self) -> tuple[Node, ...]:
        """Return the nodes of that partition, limited to those that the request names, if any."""
        own = (node for node in self.nodes if self.partition in node.partitions)
        return tuple(node for node in own if not self.nodelist or node.name in self.nodelist)


def collect(cluster: Cluster, request: Request, host: HostContext, shell: Shell) -> Site:
    """Collect all answers. Never raises: what cannot be determined is empty or None."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], resource.getrlimit(resource.RLIMIT_NOFILE)
    if cluster.scheduler != "slurm":
        return Site(cluster, request, host, memlock=limits[0], files=limits[1])
    try:
        ping = ask(["scontrol", "ping"], shell)
        config = info.settings(shell)
        groups, nodes = info.node_groups(shell), read_nodes(shell)
        release = info.version(shell)
    except SlurmError as error:
        return Site(cluster, request, host, slurm_error=error.message, memlock=limits[0], files=limits[1])
    return Site(
        cluster,
        request,
        host,
        controllers=f"{ping.stdout}{ping.stderr}",
        release=release,
        config=config,
        groups=groups,
        nodes=nodes,
        mpi_types=_or(lambda: info.mpi_types(shell), ()),
        srun_help=_or(lambda: info.srun_help(shell), None),
        munge=_munge(config, shell),
        associations=_associations(host.user, config, shell),
        nodelist=_or(lambda: hostnames(str(request.nodelist), shell), ()) if request.nodelist else (),
        memlock=limits[0],
        files=limits[1],
    )


Thing = TypeVar("Thing")


def _or(ask_for: Callable[[], Thing], otherwise: Thing) -> Thing:
    """Return what `ask_for` returns, or `otherwise` where that is not known here."""
    try:
        return ask_for()
    except LauncherError:
        return otherwise


def _munge(config: Mapping[str, str], shell: Shell) -> CommandOutput:
    """Create and decode a munge credential, as Slurm does for each of its messages."""
    if config.get("AuthType") != "auth/munge":
        return CommandOutput(None, f"Slurm authenticates by {config.get('AuthType', 'another method')}")
    options = [
        f"--socket={word.removeprefix('socket=')}"
        for word in config.get("AuthInfo", "").split(",")
        if word.startswith("socket=")
    ]
    made = run_program(["munge", "--no-input", *options], shell)
    return made if made.text is None else run_program(["unmunge", *options], shell, text=made.text)


def _associations(user: str, config: Mapping[str, str], shell: Shell) -> CommandOutput:
    """Query account, partition and QOS of each association of the user, a line each."""
    if config.get("AccountingStorageType", "").endswith("none"):
        return CommandOutput(None, "this Slurm keeps no accounts")
    argv = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}"]
    return run_program([*argv, "format=account,partition,qos"], shell)


def run_program(
    argv: list[str],
    shell: Shell,
    *,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    good: tuple[int, ...] = (0,),
) -> CommandOutput:
    """Run a program and return what it printed, or why not: it is missing, timed out, or ended with an error.

    `text` is its input, `good` its exit statuses that count as success.
    """
    try:
        result: Result = shell.run(argv, input=text, env=env, check=False, timeout_s=_TIMEOUT_S)
    except CommandError as error:
        return CommandOutput(None, error.message)
    if result.status not in good:
        words = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
        return CommandOutput(None, f"{argv[0]} ended with status {result.status}: {words[-1]}")
    return CommandOutput(result.stdout or result.stderr)


@dataclass(frozen=True)
class DirectoryState:
    """A directory, and whether it can be written to."""

    path: Path
    exists: bool
    """Whether it exists; otherwise `parent`, the nearest directory above it, was tested."""
    parent: Path
    kind: str
    """Type of its file system (`nfs4`, `lustre`, `ext4`); empty if /proc does not state it."""
    free: int | None = None
    """Free space in bytes."""
    inodes: int | None = None
    """Number of files that can still be created; None if the file system has no such limit."""
    error: str | None = None
    """Why it cannot be written to; None if it can."""


def probe_directory(path: Path, mounts: str) -> DirectoryState:
    """Test a directory by creating a file in it; `mounts` is the content of /proc/self/mounts."""
    parent = next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))
    kind = file_system(parent, mounts)
    probe = parent / f".launcher-doctor.{os.getpid()}"
    try:
        there = os.statvfs(parent)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return DirectoryState(path, parent == path, parent, kind, error=error.strerror or str(error))
    free = shutil.disk_usage(parent).free
    return DirectoryState(path, parent == path, parent, kind, free, there.f_favail if there.f_files else None)


def file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system of a directory: of the longest mount point above it, the last if several."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if (path == Path(point) or Path(point) in path.resolve().parents or point == "/") and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def test_submission(plan: Plan, script: str, env: Mapping[str, str], shell: Shell) -> CommandOutput:
    """Run `sbatch --test-only` with the script that a run would be submitted with."""
    if not plan.backend.own_job:
        return CommandOutput(None, "nothing would be submitted here")
    said = run_program(["sbatch", "--test-only"], shell, text=script, env=env)
    if said.text is not None or not said.why.startswith("sbatch ended"):
        return said
    nodes = "1 node" if plan.layout.nodes == 1 else f"{plan.layout.nodes} nodes"
    return CommandOutput(None, f"{said.why}; the job had {nodes} and {plan.layout.ranks_per_node} GPUs on each node")
