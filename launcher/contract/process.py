"""The identity of a process: its number, which is used again later, with the time of its start, which is not."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Optional

from launcher.contract.frozen import dataclass


def stat(pid: int) -> Optional[list[str]]:
    """Return the fields of /proc/PID/stat from the third (state) on; None if there is no such process.

    Source: proc_pid_stat(5).
    """
    try:
        # The second field is the program's name in parentheses, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split() or None
    except OSError:
        return None


def start_ticks(fields: list[str]) -> int:
    """Return when a process was started, in clock ticks since boot (field 22), from what `stat` gave."""
    return int(fields[19])


def start_ticks_of(pid: int) -> Optional[int]:
    """Return when a process was started, in clock ticks since boot; None where /proc does not say."""
    fields = stat(pid)
    return start_ticks(fields) if fields else None


def is_alive(pid: int, started: Optional[int]) -> bool:
    """Return whether this very process runs on this machine; one that has ended and was not waited for does not.

    `started` is its `start_ticks`; None where they were not recorded: then the number alone counts.
    """
    fields = stat(pid)
    if fields is None or fields[0] in "ZX":
        return False
    return started is None or start_ticks(fields) == started


def group_of(pid: int) -> Optional[int]:
    """Return the process group of a process that has not ended; None for any other."""
    fields = stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[2])


def boot_id() -> str:
    """Return what the kernel calls this boot of this machine; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one boot of one machine, as other processes on that machine can recognise it."""

    host: str
    boot_id: str
    """Empty where it cannot be read; then no other process can be recognised."""
    pid_namespace: str
    """A container on the same host may see other processes under the same numbers."""
    pid: int
    start_ticks: int

    @classmethod
    def of_this_process(cls) -> "ProcessIdentity":
        """Return the identity of the process that calls."""
        pid = os.getpid()
        try:
            boot, namespace = boot_id(), str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            boot, namespace = "", ""
        return cls(os.uname().nodename, boot, namespace, pid, start_ticks_of(pid) or 0)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Optional[ProcessIdentity]":
        """Return the identity that `to_dict` gave; None for anything else."""
        texts = [value.get(name) for name in ("host", "boot_id", "pid_namespace")]
        numbers = [value.get(name) for name in ("pid", "start_ticks")]
        if not all(isinstance(each, str) for each in texts) or not all(type(each) is int for each in numbers):
            return None
        return cls(**{name: value[name] for name in ("host", "boot_id", "pid_namespace", "pid", "start_ticks")})

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain values."""
        return asdict(self)

    def short(self) -> str:
        """Return the identity as a part of a file's name, which `from_short` understands on this machine."""
        return f"{self._place()}-{self.pid}-{self.start_ticks}"

    @classmethod
    def from_short(cls, text: str) -> "Optional[ProcessIdentity]":
        """Return the identity that `short` gave; None for one of another machine or boot, and for any other text."""
        found = re.fullmatch(r"([0-9a-f]{16})-([0-9]+)-([0-9]+)", text)
        mine = cls.of_this_process()
        if found is None or found[1] != mine._place():
            return None
        return replace(mine, pid=int(found[2]), start_ticks=int(found[3]))

    def _place(self) -> str:
        text = "\0".join((self.host, self.boot_id, self.pid_namespace))
        import hashlib  # here, not at the top: it loads OpenSSL, which most commands do without

        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]

    def has_ended(self, seen_from: "Optional[ProcessIdentity]" = None) -> Optional[bool]:
        """Return whether this process has ended, as far as `seen_from` (default: this process) can tell; else None.

        None is the answer for another machine, another boot of a machine of this name (two machines may have one name)
        and another pid namespace.
        """
        mine = seen_from or self.of_this_process()
        if not self.boot_id or (self.host, self.boot_id, self.pid_namespace) != (
            mine.host,
            mine.boot_id,
            mine.pid_namespace,
        ):
            return None
        try:
            # Unlike a look into /proc this also finds processes of other users under hidepid=2, see proc(5).
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # EPERM: the process is another user's, so it exists, and /proc may say more
        fields = stat(self.pid)
        return False if fields is None else fields[0] in "ZX" or start_ticks(fields) != self.start_ticks
