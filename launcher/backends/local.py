"""Ranks as plain processes on this machine, each running step.sh as srun would have it."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher._util import shell
from launcher._util.errors import OutsideError
from launcher._util.processes import this_launcher
from launcher.backends.process_environment import inherited
from launcher.planning.model import Plan
from launcher.rundir import Attempt, RunDirectory

_KILL_AFTER_S = 10
"""Between the request to end and SIGKILL, for ranks that a failed one leaves waiting."""


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
        """Start every rank, in one process group of their own."""
        port = free_port()
        try:
            for rank in range(self.plan.world_size):
                self.processes.append(self._start_rank(rank, port))
        except OutsideError:
            self.signal(signal.SIGKILL)
            raise
        mine = this_launcher(self.processes[0].pid)
        self.run.journal.write("launched", mode="local", attempt=self.attempt.name, **mine)

    def _start_rank(self, rank: int, port: int) -> "subprocess.Popen[bytes]":
        return shell.start(
            [*self._enter("rank"), "bash", str(self.run.path / "step.sh")],
            env={**inherited(self.plan, self.environ), **self._rank_variables(rank, port)},
            log=self.attempt.log(rank),
            group=self.processes[0].pid if self.processes else 0,
        )

    def _enter(self, verb: str) -> list[str]:
        """What leads a command into the run's container; nothing on the bare machine."""
        container = self.plan.container
        if container is None:
            return []
        name = f"{container.label}-local-{self.attempt.name}"
        return ["bash", str(self.run.path / "enter.sh"), verb, name]

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
        """The step's exit status once every rank has ended, else None; ends the others as srun would.

        That is: at once when a rank fails (--kill-on-bad-exit), and --wait seconds after the first has ended.
        """
        statuses = [process.poll() for process in self.processes]
        ended = [status for status in statuses if status is not None]
        if len(ended) == len(statuses):
            return next((abs_status(status) for status in ended if status), 0)
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

    def end(self) -> None:
        """End the step without waiting for anything to be saved."""
        if self._killing is None:
            self._end(time.monotonic())
        else:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to every process of the ranks."""
        if self.processes:
            try:
                os.killpg(self.processes[0].pid, number)
            except ProcessLookupError:
                return

    def judge(self, status: int) -> str:
        """Let the runtime compose result.json; its word is the outcome."""
        verdict = self.run.code / "launcher/job/result.py"
        argv = [
            self.python,
            str(verdict),
            str(self.run.path),
            self.attempt.name,
            str(self.plan.world_size),
            str(status),
        ]
        word = shell.run(argv).stdout.strip()
        if self.plan.container is not None:
            # What stays behind (the launcher itself may be killed) the next run on this machine takes away.
            shell.run(self._enter("remove"), env=inherited(self.plan, self.environ), check=False)
        return word


def abs_status(status: int) -> int:
    """A process's status as a shell gives it: 128+N for signal N."""
    return 128 - status if status < 0 else status


def free_port() -> int:
    """A port that nobody listens on now, in the range that step.sh derives ports from under Slurm.

    Raises OutsideError.
    """
    numbers = random.Random()  # noqa: S311 - to keep two runs apart, not for secrecy
    for _ in range(100):
        port = numbers.randrange(20000, 29000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OutsideError("none of a hundred ports between 20000 and 29000 is free", hint="End what listens there.")
