"""Interpreters whose commands are run by a fork server: `warm_python()` in place of sys.executable.

A cold `python` needs some 14 seconds of CPU time to import the training stack. `warm_python()` returns the path of an
executable like it whose commands have it imported at once: see fork_server.py and fork_client.py. The server is started
with the first command of a test session (of a pytest-xdist worker), once for each interpreter, and ends with the
session.

For tests whose subject is not how a process starts. Those that look at it use sys.executable (`old_bridge.PYTHON`).
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NAMESPACES = ("uts", "mnt")


@dataclass
class ForkServer:
    """A server that runs, and the stand-in for its interpreter."""

    directory: Path
    process: "subprocess.Popen[bytes]"

    @property
    def python(self) -> str:
        """The path of the stand-in interpreter."""
        return str(self.directory / "python")

    def stop(self) -> None:
        """End the server with all its children."""
        assert self.process.stdin is not None
        if (cold := self.directory / "cold").exists() and (report := os.environ.get("TEST_COLD_STARTS")):
            with Path(report).open("a") as file:
                file.write(cold.read_text())
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


_SERVERS: dict[str, ForkServer] = {}


def warm_python(python: str = sys.executable) -> str:
    """Return a stand-in for the interpreter `python`, which has the training stack imported; start it where need be."""
    if python not in _SERVERS:
        _SERVERS[python] = start(python)
    return _SERVERS[python].python


def start(python: str = sys.executable) -> ForkServer:
    """Start a server of its own for `python`; the caller stops it."""
    # Here, as this module is also imported where there is no pytest.
    from tests.support.quick import refuse_in_quick

    refuse_in_quick("the training stack", "megatron")
    directory = Path(tempfile.mkdtemp(prefix="fork-", dir="/tmp"))
    directory.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMP_"))}
    with socket.socket(socket.AF_UNIX) as listening, (directory / "log").open("wb") as log:
        # Clients that come before the imports are done wait in its queue.
        listening.bind(str(directory / "socket"))
        listening.listen(64)
        process = subprocess.Popen(
            [python, str(HERE / "fork_server.py"), str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            pass_fds=[listening.fileno()],
        )
    facts = {
        "socket": str(directory / "socket"),
        "python": python,
        "environment": environment,
        "namespaces": {name: Path("/proc/self/ns", name).stat().st_ino for name in NAMESPACES},
    }
    stand_in = directory / "python"
    # -I and -S: nothing of the command's own environment may keep it from starting at once.
    program = f"import sys\nsys.path.append({str(HERE)!r})\nfrom fork_client import main\nmain({facts!r})\n"
    stand_in.write_text(f"#!{python} -IS\n{program}")
    stand_in.chmod(0o755)
    return ForkServer(directory, process)


def stop_all() -> None:
    """End the servers of this session."""
    while _SERVERS:
        _SERVERS.popitem()[1].stop()
