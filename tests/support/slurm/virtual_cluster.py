"""A real Slurm of several virtual nodes on one machine: munge, slurmctld and a slurmd per node.

Everything lies in one directory and belongs to one process (`keeper.py`); it runs as root and as any user, needs no
systemd and no cgroups, and several clusters live side by side. By hand:

    python -m tests.support.slurm.virtual_cluster up DIR [--nodes N --slots N --gpus N]
    eval "$(python -m tests.support.slurm.virtual_cluster env DIR)"     then srun, sbatch, squeue ...
    python -m tests.support.slurm.virtual_cluster fail DIR n3           as if the power of n3 went
    python -m tests.support.slurm.virtual_cluster node DIR n3           start n3 again
    python -m tests.support.slurm.virtual_cluster down DIR
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.limits import seconds
from tests.support.quick import refuse_in_quick
from tests.support.slurm import machine
from tests.support.slurm.config import DATABASE_PORT, DBD_PORT, ClusterOptions, address, write_files
from tests.support.slurm.machine import (
    LONGEST_DIRECTORY,
    SEARCH_PATH,
    ClusterError,
    client_environment,
    missing_programs,
)

__all__ = ["ClusterError", "VirtualCluster", "client_environment", "missing_programs", "virtual_cluster", "wait_until"]


class VirtualCluster:
    """A running cluster; `up` starts one, `attach` finds one that `up` started elsewhere."""

    def __init__(self, directory: Path, options: ClusterOptions, namespaces: bool, owner_fd: int = -1) -> None:
        self.directory = directory
        self.options = options
        self.namespaces = namespaces
        self.conf = directory / "etc" / "slurm.conf"
        self._owner_fd = owner_fd

    @classmethod
    def up(
        cls, directory: Path, options: ClusterOptions | None = None, *, die_with_caller: bool = True
    ) -> "VirtualCluster":
        """Start a cluster in `directory` (absent, or empty) and wait until all its nodes are idle.

        With `die_with_caller` the cluster ends with this process, however that dies. Raises ClusterError with the
        ends of the logs.
        """
        refuse_in_quick("a Slurm", "slurm")
        options = options or ClusterOptions()
        if (reason := missing_programs(accounting=options.accounting)) is not None:
            raise ClusterError(reason)
        directory = directory.resolve()
        if len(str(directory)) > LONGEST_DIRECTORY:
            raise ClusterError(f"{directory}: too long for a socket's path; at most {LONGEST_DIRECTORY} characters")
        if directory.exists() and any(directory.iterdir()):
            raise ClusterError(f"{directory} is not empty")
        namespaces = machine.namespaces_work() if options.namespaces is None else options.namespaces
        guard, port = machine.claim_ports(directory)
        with guard:
            write_files(directory, options, user=pwd.getpwuid(os.geteuid()).pw_name, port=port, namespaces=namespaces)
            (directory / "etc" / "cluster.json").write_text(
                json.dumps({"nodes": options.nodes, "namespaces": namespaces, "port": port})
            )
            cluster = cls(
                directory, options, namespaces, cls._start_keeper(directory, namespaces, guard, die_with_caller)
            )
        try:
            cluster._start_daemons(port)
        except BaseException:
            cluster.down()
            raise
        return cluster

    @classmethod
    def attach(cls, directory: Path) -> "VirtualCluster":
        """The cluster that runs in `directory`."""
        directory = directory.resolve()
        try:
            known = json.loads((directory / "etc" / "cluster.json").read_text())
        except OSError:
            raise ClusterError(f"no virtual cluster in {directory}") from None
        return cls(directory, ClusterOptions(nodes=known["nodes"]), known["namespaces"])

    @staticmethod
    def _start_keeper(directory: Path, namespaces: bool, guard: socket.socket, die_with_caller: bool) -> int:
        """Start the keeper; returns the write end of the pipe that says that we are alive (-1 without)."""
        read_end, write_end = os.pipe() if die_with_caller else (-1, -1)
        # A hand-made cluster keeps the range of ports as well, and only that descriptor.
        keep = [fd for fd in (read_end, guard.fileno()) if fd >= 0]
        program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
        argv = [*program, str(directory), str(read_end), str(guard.fileno())]
        environment = {**client_environment(directory / "etc" / "slurm.conf"), "PATH": SEARCH_PATH}
        with (directory / "log" / "keeper.out").open("ab") as output:
            process = subprocess.Popen(
                machine.unshare(argv) if namespaces else argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                pass_fds=keep,
                start_new_session=True,
            )
        # `down` collects it by its pid; Popen must not complain before.
        process.returncode = 0
        (directory / "run" / "keeper.pid").write_text(f"{process.pid} {machine.start_ticks(process.pid)}\n")
        if read_end >= 0:
            os.close(read_end)
        return write_end

    def _start_daemons(self, port: int) -> None:
        run, etc = self.directory / "run", self.directory / "etc"
        wait_until(lambda: machine.accepts(run / "keeper.sock"), "the keeper", self)
        files = [f"--key-file={etc}/munge.key", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"]
        files += [f"--log-file={self.directory}/log/munged.log", f"--seed-file={self.directory}/state/munge.seed"]
        # --force: the directory's owner and mode are what they are in a temporary directory.
        self.ask("start", name="munged", argv=["munged", "--foreground", "--force", *files])
        wait_until(lambda: machine.accepts(run / "munge.sock"), "munged", self)
        if self.options.accounting:
            self._start_accounting(port)
        self.start_controller()
        wait_until(lambda: machine.accepts(("127.0.0.1", port + 1)), "slurmctld", self)
        for name in self.options.names:
            self.start(name)
        self.wait_idle()

    def _start_accounting(self, port: int) -> None:
        """Start a database and slurmdbd, and make an account of this user."""
        user, data, sock = (
            pwd.getpwuid(os.geteuid()).pw_name,
            self.directory / "database",
            self.directory / "run/db.sock",
        )
        own = ("--no-defaults", f"--user={user}", f"--datadir={data}")
        self.run("mariadb-install-db", *own, "--auth-root-authentication-method=normal", "--skip-test-db")
        where = (f"--socket={sock}", "--bind-address=127.0.0.1", f"--port={port + DATABASE_PORT}")
        small = ("--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0")
        self.ask("start", name="mariadbd", argv=["mariadbd", *own, *where, *small])
        wait_until(lambda: machine.accepts(sock), "mariadbd", self)
        grant = "create user slurm@'127.0.0.1' identified by 'slurm'; grant all on slurm.* to slurm@'127.0.0.1'"
        self.run("mariadb", "--no-defaults", "-uroot", f"--socket={sock}", "-e", grant)
        self.ask("start", name="slurmdbd", argv=["slurmdbd", "-D"])
        wait_until(lambda: machine.accepts(("127.0.0.1", port + DBD_PORT)), "slurmdbd", self)
        for words in (("cluster", "virtual"), ("account", "gpt"), ("user", user, "account=gpt")):
            self.run("sacctmgr", "--immediate", "add", *words)

    def down(self) -> None:
        """End every process of the cluster and remove its directory. Harmless when that has happened already."""
        pid_file = self.directory / "run" / "keeper.pid"
        pid, ticks = (int(word) for word in pid_file.read_text().split()) if pid_file.exists() else (0, 0)
        machine.end_clients(self.conf)
        with contextlib.suppress(ClusterError):
            self.ask("down")
        if self._owner_fd >= 0:
            os.close(self._owner_fd)
            self._owner_fd = -1
        deadline = time.monotonic() + seconds(10)
        while pid and machine.start_ticks(pid) == ticks:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        with contextlib.suppress(ChildProcessError):  # a cluster found by `attach` is not a child of this process
            os.waitpid(pid, os.WNOHANG) if pid else None
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, node: str) -> None:
        """Start a node (again)."""
        self._check(node)
        self.ask("start", name=node, argv=machine.node_program(node, self.directory, namespaces=self.namespaces))

    def fail(self, node: str) -> None:
        """Kill a node with all that runs on it, as a power failure would; Slurm notices after `node_timeout_s`."""
        self._check(node)
        self.ask("signal", name=node, signal=int(signal.SIGKILL))

    def start_controller(self) -> None:
        """Start slurmctld (again); it recovers the jobs that it knew."""
        self.ask("start", name="slurmctld", argv=["slurmctld", "-D"])

    def stop_controller(self) -> None:
        """End slurmctld as an administrator would: it saves its state, clients are refused at once, jobs go on."""
        self.ask("signal", name="slurmctld", signal=int(signal.SIGTERM))
        wait_until(lambda: "slurmctld" not in self.ask("running")["running"], "slurmctld to end", self)

    def kill_controller(self) -> None:
        """Kill slurmctld: what happened in the last 5 s it will not know; a job started then ends up held."""
        self.ask("signal", name="slurmctld", signal=int(signal.SIGKILL))

    def pause_controller(self) -> None:
        """Freeze slurmctld: clients give up in `message_timeout_s`; what they sent is done on resume_controller()."""
        self.ask("signal", name="slurmctld", signal=int(signal.SIGSTOP))

    def resume_controller(self) -> None:
        self.ask("signal", name="slurmctld", signal=int(signal.SIGCONT))

    def address(self, node: str) -> str:
        """Where a node's services listen."""
        self._check(node)
        return address(self.options.names.index(node) + 1, self.namespaces)

    def _check(self, node: str) -> None:
        if node not in self.options.names:
            raise ClusterError(f"no node {node}: this cluster has {', '.join(self.options.names)}")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request to the keeper."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self.directory / "run" / "keeper.sock"))
                with connection.makefile("rw", encoding="utf-8") as stream:
                    stream.write(json.dumps({"do": do, **request}) + "\n")
                    stream.flush()
                    reply: dict[str, Any] = json.loads(stream.readline() or '{"ok": false, "error": "it is gone"}')
        except OSError as error:
            raise ClusterError(f"the keeper of {self.directory} does not answer: {error}") from None
        if not reply["ok"]:
            raise ClusterError(f"{do} {request.get('name', '')}: {reply['error']}")
        return reply

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with Slurm's commands pointed at the cluster."""
        return client_environment(self.conf)

    def run(
        self, *argv: str, timeout_s: float = 60, check: bool = True, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command and return what it printed. `more` goes to subprocess.run."""
        env = {**self.environment, **more.pop("env", {})}
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=seconds(timeout_s), check=check, **more
        )

    def submit(self, script: str, *options: str, cwd: Path | None = None) -> str:
        """Submit a batch script by its text; returns the job id. See `output` for what it prints."""
        output = f"--output={self.directory}/log/%j.out"
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
        return self.run("sbatch", "--parsable", output, *options, input=text, cwd=cwd or self.directory).stdout.strip()

    def output(self, job: str) -> str:
        """What a job of `submit` has printed."""
        path = self.directory / "log" / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        """State of a job as squeue words it (COMPLETED jobs are remembered for `min_job_age_s`)."""
        return self.run("squeue", "-h", "--states=all", "-o", "%T", "-j", job).stdout.strip()

    def wait(self, job: str, *states: str, timeout_s: float = 60) -> str:
        """Wait until a job is in one of `states`; returns the state."""
        wait_until(lambda: self.state(job) in states, f"job {job} to be {' or '.join(states)}", self, timeout_s)
        return self.state(job)

    def wait_idle(self, timeout_s: float | None = None) -> None:
        """Wait until every node is idle."""
        idle = ("sinfo", "-h", "-N", "-p", "batch", "-t", "idle", "-o", "%N")
        wait_until(
            lambda: len(self.run(*idle, check=False).stdout.split()) == self.options.nodes,
            "idle nodes",
            self,
            timeout_s,
        )

    def cancel_all(self) -> None:
        """Cancel all jobs and wait until the nodes are free: what a test leaves must not reach the next."""
        if self.run("squeue", "-h", "-o", "%i").stdout.strip():
            self.run("scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name)
            wait_until(lambda: not self.run("squeue", "-h", "-o", "%i").stdout.strip(), "jobs to end", self)

    def tails(self) -> str:
        """The ends of all logs, for an error's text."""
        logs = sorted((self.directory / "log").glob("*.*"))
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-5:]) for path in logs
        )


def wait_until(
    condition: Callable[[], bool], what: str, cluster: VirtualCluster, timeout_s: float | None = None
) -> None:
    """Wait for a condition; raises ClusterError with the ends of the cluster's logs."""
    timeout_s = cluster.options.start_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + seconds(timeout_s)
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:.0f} s for {what}\n{cluster.tails()}")
        time.sleep(pause)
        pause = min(0.1, pause * 1.3)


@contextlib.contextmanager
def virtual_cluster(options: ClusterOptions | None = None) -> Iterator[VirtualCluster]:
    """A cluster in a new temporary directory; it is gone afterwards, and also if this process is killed."""
    # mkdtemp below the system's own directory: pytest's are too long for sockets, and TMPDIR may be.
    cluster = VirtualCluster.up(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")), options)
    try:
        yield cluster
    finally:
        cluster.down()


if __name__ == "__main__":
    from tests.support.slurm.by_hand import main

    sys.exit(main())
