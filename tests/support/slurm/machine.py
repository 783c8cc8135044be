"""What virtual clusters need of the machine: Slurm's programs, namespaces, free ports, a look at its processes."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

from tests.support.slurm.config import PORTS_PER_CLUSTER

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sinfo", "srun", "sbatch", "squeue", "scontrol", "scancel")
OF_ACCOUNTING = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb", "mariadb-install-db")
CLIENTS = ("srun", "salloc", "sbatch", "sattach")
# Daemons lie where the PATH of an ordinary user does not lead.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_OF_SLURM = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SINFO_")
# The longest of our socket names must fit into sockaddr_un.
LONGEST_DIRECTORY = 107 - len("/run/keeper.sock.12345")


class ClusterError(RuntimeError):
    """The virtual cluster did not start, or a request to it failed."""


def missing_programs(*, accounting: bool = False) -> str | None:
    """Why no virtual cluster can run here, or None."""
    absent = [
        name
        for name in (*PROGRAMS, *(OF_ACCOUNTING if accounting else ()))
        if shutil.which(name, path=SEARCH_PATH) is None
    ]
    if not absent:
        return None
    return f"Slurm is not installed ({', '.join(absent)} missing): apt-get install slurmctld slurmd slurm-client munge"


def client_environment(conf: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment whose Slurm commands speak to the cluster of `conf`.

    What an outer allocation may have left in `base` (default: this process's environment) is not in it.
    """
    base = os.environ if base is None else base
    kept = {name: value for name, value in base.items() if not name.startswith(_OF_SLURM)}
    return {**kept, "SLURM_CONF": str(conf)}


def unshare(argv: list[str], *, nested: bool = False) -> list[str]:
    """`argv` in namespaces of its own: host name, mounts and a process tree that dies with its first process."""
    # An ordinary user gets the capabilities for mounts and host names from a user namespace in which he stays himself;
    # inside that one (`nested`) he has them.
    user = [] if nested or os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *user, "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", *argv]


def node_program(node: str, directory: Path, *, namespaces: bool) -> list[str]:
    """The command that is a node: slurmd, in namespaces of its own if there are any."""
    if not namespaces:
        return ["slurmd", "-D", "-N", node]
    # bash is the node's process 1, so it reaps, and takes everything along when it dies. /run is the node's own
    # because container runtimes keep state there.
    # A job with --export=NAMES starts a login shell for the rest of its environment. The shell's start-up files are
    # emptied: a version manager's lock, left by a job that was killed, would delay every later job by a minute.
    script = """
        mount --bind "$2/etc/hosts" /etc/hosts; mount --bind "$2/run/$1" /run; hostname "$1"
        for file in ~/.bash_profile ~/.bash_login ~/.profile; do
            [[ ! -f $file ]] || mount --bind /dev/null "$file"
        done
        ports=$2/etc/ip_local_port_range
        [[ ! -f $ports ]] || mount --bind "$ports" /proc/sys/net/ipv4/ip_local_port_range
        slurmd -D -N "$1" & wait
    """
    return unshare(["bash", "-c", script, "node", node, str(directory)], nested=True)


@functools.cache
def namespaces_work() -> bool:
    """Whether each node can have its own host name, mounts and processes (containers often forbid it)."""
    if shutil.which("unshare") is None:
        return False
    inner = ["bash", "-c", "mount --bind /etc/hosts /etc/hosts && hostname n1"]
    argv = unshare(unshare(inner, nested=True))  # as the cluster does it
    return subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0


def claim_ports(directory: Path) -> tuple[socket.socket, int]:
    """A free range of ports below the ephemeral ones, and the bound socket that keeps other clusters away from it."""
    # Without 20000 to 28999: step.sh takes MASTER_PORT from there.
    bases = [*range(10240, 20000 - PORTS_PER_CLUSTER, PORTS_PER_CLUSTER), *range(29000, 32000, PORTS_PER_CLUSTER)]
    first = zlib.crc32(str(directory).encode()) % len(bases)
    for base in [*bases[first:], *bases[:first]]:
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", base))
            with contextlib.ExitStack() as tried:
                for port in range(base + 1, base + PORTS_PER_CLUSTER):
                    tried.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return guard, base
        except OSError:
            guard.close()
    raise ClusterError("no free range of ports for a virtual cluster")


def accepts(where: Path | tuple[str, int]) -> bool:
    """Whether somebody listens on a Unix socket or a TCP port."""
    with socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET) as probe:
        return probe.connect_ex(str(where) if isinstance(where, Path) else where) == 0


def start_ticks(pid: int) -> int:
    """When a process started, in the kernel's ticks, which a reused pid does not share. 0: it is gone, or a zombie."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def end_clients(conf: Path) -> None:
    """Kill srun, salloc and the like of this cluster: they would wait for a controller that never comes back."""
    mark = f"SLURM_CONF={conf}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_client = entry.name.isdigit() and (entry / "comm").read_text().strip() in CLIENTS
            if is_client and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
