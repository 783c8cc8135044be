"""The owner of a lock, a workspace or a use: a process that others on the same machine can recognise, and its user."""

import os
import pwd
from dataclasses import dataclass
from typing import Any

from launcher.contract.process import ProcessIdentity


@dataclass(frozen=True)
class Owner(ProcessIdentity):
    """One process of one boot of one machine, and the user who started it."""

    user: str

    @classmethod
    def of_this_process(cls) -> "Owner":
        """Return the owner that the calling process is."""
        return cls(**ProcessIdentity.of_this_process().to_dict(), user=_user())

    @classmethod
    def from_dict(cls, value: Any) -> "Owner | None":
        """Return the owner that `to_dict` gave; None for anything else."""
        identity = ProcessIdentity.from_dict(value) if isinstance(value, dict) else None
        if identity is None or not isinstance(value.get("user"), str):
            return None
        return cls(**identity.to_dict(), user=value["user"])

    def __str__(self) -> str:
        if not self.host:
            return "an unknown process"
        return f"{self.user} on {self.host} (process {self.pid})"


UNKNOWN_OWNER = Owner("", "", "", 0, 0, "")
"""Stands for an owner whose record cannot be read: whether it has ended is not known."""


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a uid that has no entry, as in a container
        return str(os.getuid())
