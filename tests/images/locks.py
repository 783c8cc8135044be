"""Quick locks for tests, and processes that act as other machines. It imports little: many processes start with it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from launcher.images.store.lock import LeaseTiming, Lock
from launcher.images.store.owner import Owner

ROOT = Path(__file__).parents[2]
QUICK = LeaseTiming(heartbeat_s=0.1, stale_s=1.0, poll_s=0.01, report_s=0.2)


def node(name: str) -> Owner:
    """This process as one of another machine: no process here can look whether it still runs."""
    return replace(Owner.of_this_process(), host=name, boot_id=f"boot of {name}")


def a_lock(directory: Path, *, host: str | None = None, kernel: bool | None = None) -> Lock:
    return Lock(directory / "lock", node(host) if host else None, kernel, QUICK)


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing, if there is one."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=shm, prefix="launcher-test-") as directory:
        yield Path(directory)


def script(code: str, *arguments: object, within: tuple[str, ...] = (), **options: object) -> "subprocess.Popen[str]":
    """Start Python code in a process of its own that finds the launcher and the tests; `within` runs it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*within, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]
