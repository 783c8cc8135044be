"""Who holds a lock, a workspace or a use: a process that others can recognise, and see ended, on the same machine."""

import os
import pwd
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.contract import process


@dataclass(frozen=True)
class Owner:
    """One process of one boot of one machine.

    A pid is used again, a pid with its start (`start_ticks`, clock ticks since boot, field 22 of proc_pid_stat(5)) is
    not. `pid_namespace` is there because a container on the same host may see other processes under the same numbers.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int
    user: str

    @classmethod
    def this_process(cls) -> "Owner":
        """The process that calls."""
        pid = os.getpid()
        try:
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            boot_id, namespace = "", ""
        ticks = _start_ticks(pid) or 0
        return cls(socket.gethostname(), boot_id, namespace, pid, ticks, _user())

    @classmethod
    def from_json(cls, value: Any) -> "Owner | None":
        """Read what `asdict` gave; None for anything else."""
        if not isinstance(value, dict):
            return None
        texts = [value.get(name) for name in ("host", "boot_id", "pid_namespace", "user")]
        numbers = [value.get(name) for name in ("pid", "start_ticks")]
        if not all(isinstance(each, str) for each in texts) or not all(type(each) is int for each in numbers):
            return None
        return cls(**{name: value[name] for name in asdict(UNKNOWN_OWNER)})

    def has_ended(self, seen_from: "Owner") -> bool | None:
        """Whether this process has ended, as far as the process `seen_from` can tell; None if it cannot.

        None is the answer for another machine, another boot of a machine of this name (two machines may have one name)
        and another pid namespace.
        """
        mine = (seen_from.host, seen_from.boot_id, seen_from.pid_namespace)
        if not self.boot_id or (self.host, self.boot_id, self.pid_namespace) != mine:
            return None
        try:
            # Unlike a look into /proc this also finds processes of other users under hidepid=2, see proc(5).
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        ticks = _start_ticks(self.pid)
        return False if ticks is None else ticks != self.start_ticks

    def __str__(self) -> str:
        if not self.host:
            return "somebody who left no name"
        return f"{self.user} on {self.host} (process {self.pid})"


UNKNOWN_OWNER = Owner("", "", "", 0, 0, "")
"""Stands for an owner whose record cannot be read: no process can tell whether it is gone."""


def _start_ticks(pid: int) -> int | None:
    """When the process was started; -1 for a zombie, which has ended; None where it cannot be read."""
    fields = process.stat(pid)
    if fields is None:
        return None
    return -1 if fields[0] in "ZX" else process.start_ticks(fields)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a uid that no directory knows, as in a container
        return str(os.getuid())
