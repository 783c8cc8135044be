"""The local backend: ranks as plain processes of this machine, each running step.sh as srun would run it."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher._util import shell as programs
from launcher._util.errors import DiskError, OutsideError
from launcher._util.processes import this_launcher
from launcher._util.shell import Shell
from launcher.backends.process_environment import inherited
from launcher.discovery.host import HostContext
from launcher.planning.backend import LOCAL
from launcher.planning.model import Plan
from launcher.rundir import Attempt, RunDirectory
from launcher.rundir.lease import end_lease, take_lease

_KILL_AFTER_S = 10
"""Between SIGTERM and SIGKILL, for ranks that wait for one that failed."""


@dataclass
class LocalRanks:
    """The ranks of an attempt on this machine."""

    run: RunDirectory
    attempt: Attempt
    plan: Plan
    python: str
    environ: Mapping[str, str]
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _first_end: float | None = None
    _killing: float | None = None

    def start(self) -> None:
        """Start every rank, all in one new process group. Raises OutsideError, and then leaves no rank behind."""
        port = free_port()
        try:
            # The group is recorded with its first process: whatever kills this launcher, the others are found by it.
            self.processes.append(self._start_rank(0, port))
            mine, token = this_launcher(self.processes[0].pid), self.plan.token
            self.run.journal.write(
                "launched", backend=self.plan.backend.name, token=token, attempt=self.attempt.name, **mine
            )
            for rank in range(1, self.plan.world_size):
                self.processes.append(self._start_rank(rank, port))
        except OutsideError:
            self.signal(signal.SIGKILL)
            end_lease(self.run, only=self.plan.token)
            raise

    def _start_rank(self, rank: int, port: int) -> "subprocess.Popen[bytes]":
        return programs.start(
            [*self._enter("rank"), "bash", str(self.run.step_script)],
            env={**inherited(self.plan, self.environ), **self._rank_variables(rank, port)},
            log=self.attempt.log(rank),
            group=self.processes[0].pid if self.processes else 0,
        )

    def _enter(self, verb: str) -> list[str]:
        """Return the words that put a command into the run's container; none on the bare machine."""
        container = self.plan.container
        if container is None:
            return []
        name = f"{container.label}-local-{self.attempt.name}"
        return ["bash", str(self.run.enter_script), verb, name]

    def _rank_variables(self, rank: int, port: int) -> dict[str, str]:
        world = str(self.plan.world_size)
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LAUNCHER_ATTEMPT": self.attempt.name,
        }

    def poll(self) -> int | None:
        """Return the step's exit status once every rank has ended; None before. End the others as srun does.

        That is: at once when a rank fails (--kill-on-bad-exit), and --wait seconds after the first one has ended.
        """
        statuses = [process.poll() for process in self.processes]
        ended = [status for status in statuses if status is not None]
        if len(ended) == len(statuses):
            return next((exit_status(status) for status in ended if status), 0)
        now = time.monotonic()
        if ended and self._first_end is None:
            self._first_end = now
        overdue = self._first_end is not None and now - self._first_end > self.plan.step.wait_s
        if any(ended) or overdue or self._killing is not None:
            self._end(now)
        return None

    def _end(self, now: float) -> None:
        if self._killing is None:
            self._killing = now
            self.signal(signal.SIGTERM)
        elif now - self._killing > _KILL_AFTER_S:
            self.signal(signal.SIGKILL)

    def cancel(self) -> None:
        """Send SIGTERM to every rank, on a second call SIGKILL."""
        if self._killing is None:
            self._end(time.monotonic())
        else:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to every process in the ranks' process group."""
        if self.processes:
            try:
                os.killpg(self.processes[0].pid, number)
            except ProcessLookupError:
                return  # all of them have ended

    def finish(self, status: int) -> int:
        """Have launcher/job write result.json. Return 0 where its word is `finished`, otherwise 1."""
        argv = [
            self.python,
            str(self.run.result_program),
            str(self.run.path),
            self.attempt.name,
            str(self.plan.world_size),
            str(status),
        ]
        word = programs.run(argv).stdout.strip()
        # The outcome is written; a lease that stays names a process that has ended.
        with contextlib.suppress(DiskError):
            end_lease(self.run, only=self.plan.token)
        if self.plan.container is not None:
            # If the launcher is killed before this, the next run on this machine removes the container.
            programs.run(self._enter("remove"), env=inherited(self.plan, self.environ), check=False)
        return 0 if word == "finished" else 1


class LocalBackend:
    """Starts ranks on this machine."""

    traits = LOCAL

    def start(self, plan: Plan, run: RunDirectory, host: HostContext, shell: Shell) -> LocalRanks:  # noqa: ARG002
        """Begin an attempt and start its ranks. Raises OutsideError, also where another job or process owns the run."""
        attempt = run.begin_attempt()
        if (owner := take_lease(run, plan.token, attempt.name)) is not None:
            who = f"job {owner['job_id']}" if owner["job_id"] else f"a process on {owner['host']}"
            raise OutsideError(f"{who} executes this run", where=str(run.path), hint="See `launcher status`.")
        ranks = LocalRanks(run, attempt, plan, host.python, host.environ)
        ranks.start()
        return ranks


def exit_status(status: int) -> int:
    """Return a process's status as a shell shows it: 128+N for signal N."""
    return 128 - status if status < 0 else status


def free_port() -> int:
    """Return a port on which no process listens now, from the range that step.sh uses under Slurm.

    Raises OutsideError.
    """
    numbers = random.Random()  # noqa: S311 - to keep two runs apart, not for secrecy
    for _ in range(100):
        port = numbers.randrange(20000, 29000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # taken
            return port
    raise OutsideError(
        "none of a hundred ports between 20000 and 29000 is free", hint="End the programs that listen there."
    )
