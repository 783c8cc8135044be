"""Repeated questions to Slurm, with pauses that keep the load on it small."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher._util.shell import Shell
from launcher.slurm.queue import Answer, State, ask_jobs


@dataclass
class Poller:
    """Asks about jobs every 2 s, up to once a minute while nothing changes; notes since when Slurm does not answer."""

    ids: tuple[str, ...]
    shell: Shell
    cluster: str | None = None
    """Slurm's name of the jobs' cluster; None for the local one."""
    clock: Callable[[], float] = time.time
    shortest_s: float = 2.0
    longest_s: float = 60.0
    unknown_since: float | None = None
    """When Slurm stopped answering; None while it does."""
    answer: Answer | None = None
    """The newest one in which Slurm answered."""
    _pause_s: float = field(default=0.0, init=False)
    _next: float = field(default=0.0, init=False)

    def poll(self) -> Answer | None:
        """Ask if the pause is over; return the newest answer, with every job's state as last known."""
        now = self.clock()
        if now < self._next:
            return self.answer
        new = ask_jobs(self.ids, self.shell, cluster=self.cluster, clock=self.clock)
        changed = self.answer is None or _states(new) != _states(self.answer)
        if new.unreachable is None:
            self.answer, self.unknown_since = new, None
        elif self.unknown_since is None:
            self.unknown_since = new.asked_at
        self._pause_s = self.shortest_s if changed and new.unreachable is None else self._longer()
        self._next = self.clock() + self._pause_s
        return self.answer

    def _longer(self) -> float:
        return min(self.longest_s, max(self.shortest_s, self._pause_s * 1.5))


def _states(answer: Answer) -> dict[str, State]:
    return {name: job.state for name, job in answer.jobs.items()}
