"""One request to the launcher on a host: the system's ssh, one process, one line of JSON on its standard input.

No word of a request passes through the host's shell: the command is the same for all of them. ssh takes the first value
of each option: first stand those that a profile may not change, then the profile's, then defaults.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher._util.errors import MissingProgramError, OutsideError
from launcher._util.ownership import require_trusted
from launcher._util.version import __version__
from launcher.config.cluster import Ssh
from launcher.contract.frozen import dataclass

_CONNECTION_LOST = 255
"""ssh's own status. Source: ssh(1), EXIT STATUS."""

PROFILES = "cluster"
"""The directory of a submission's files on the host that holds its cluster profile."""

PULL_HEAD = b"launcher-pull "
"""Beginning of the line before a run's files; a host's shell may print lines before it."""

_PERSIST_S = 120
"""How long a connection stays for further commands."""

_OPTIONS = (
    "BatchMode=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ControlMaster=auto",
    f"ControlPersist={_PERSIST_S}",
    "LogLevel=ERROR",
    "RemoteCommand=none",
)

_DEFAULTS = ("ConnectTimeout=20", "ServerAliveInterval=10", "ServerAliveCountMax=3")

_LONGEST_DIRECTORY = 21
"""Of a directory for sockets, whose paths have at most 103 bytes on some systems: ssh adds 57 to ours."""


class ConnectionLostError(OutsideError):
    """The connection ended before the answer: whether the request was carried out is not known."""


@dataclass(frozen=True)
class HostAnswer:
    """What the launcher on the host printed, and its exit status."""

    status: int
    stdout: bytes


def ssh_argv(ssh: Ssh) -> list[str]:
    """Return the command line that starts the answering program. Raises RequestError for an unsafe directory."""
    options = [*_OPTIONS, f"ControlPath={_control_directory()}/%C", *ssh.options, *_DEFAULTS]
    words = ["exec", shlex.quote(ssh.python), "-m", "launcher.remote.host"]
    return ["ssh", "-T", *(word for each in options for word in ("-o", each)), "--", ssh.host, " ".join(words)]


def request_line(command: str, **values: Any) -> bytes:
    """Return a request as the program on the host reads it."""
    return (json.dumps({"launcher": __version__, "command": command, **values}) + "\n").encode()


def call(ssh: Ssh, request: bytes, *, environ: Mapping[str, str] = os.environ) -> HostAnswer:
    """Send a request and return the answer; what is for people goes to standard error as it comes.

    Raises ConnectionLostError, MissingProgramError where this machine has no ssh.
    """
    process = _started(ssh, environ, stdout=subprocess.PIPE)
    with process:
        # Standard input stays open: when it ends, the other side stops what only shows something.
        _send(process, request)
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        stdout = process.stdout.read()
        status = process.wait()
    require_answer(ssh, status)
    return HostAnswer(status, stdout)


def show(ssh: Ssh, request: bytes, *, environ: Mapping[str, str] = os.environ) -> int:
    """Send a request whose answer is for standard output as it comes, and return the exit status.

    Raises as `call` does.
    """
    sys.stdout.flush()
    process = _started(ssh, environ, stdout=None)
    with process:
        _send(process, request)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    require_answer(ssh, status)
    return status


def stream(ssh: Ssh, request: bytes, *, environ: Mapping[str, str] = os.environ) -> "subprocess.Popen[bytes]":
    """Send a request and return the process, whose standard output is the answer."""
    process = _started(ssh, environ, stdout=subprocess.PIPE)
    _send(process, request)
    return process


def _started(ssh: Ssh, environ: Mapping[str, str], stdout: int | None) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(ssh_argv(ssh), stdin=subprocess.PIPE, stdout=stdout, env=dict(environ))
    except FileNotFoundError:
        raise MissingProgramError(
            "ssh is not installed, or not on the PATH", hint="Install OpenSSH's client."
        ) from None


def _send(process: "subprocess.Popen[bytes]", request: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        while request:
            request = request[os.write(process.stdin.fileno(), request) :]
    except BrokenPipeError:
        return  # ssh has ended, and its status says how


def require_answer(ssh: Ssh, status: int) -> None:
    """Raise an error for a status of ssh, or of the host's shell, that says that the launcher there did not answer."""
    if status == _CONNECTION_LOST or status < 0 or status in (126, 127):
        missing = status in (126, 127)
        reason = f"there is no interpreter {ssh.python!r} there" if missing else "the connection failed or ended"
        hint = (
            "Name the Python that has the launcher there: `python` below [ssh] of the cluster profile."
            if missing
            else f"Try: ssh -o BatchMode=yes {ssh.host} true"
        )
        kind = OutsideError if missing else ConnectionLostError
        raise kind(f"{ssh.host}: {reason}", hint=hint)


def _control_directory() -> Path:
    """Return a directory of this user alone for the sockets of connections; a socket's path is short."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and len(runtime) <= _LONGEST_DIRECTORY else Path("/tmp")  # noqa: S108 - owned, and checked
    directory = base / f"launcher-ssh-{os.geteuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    require_trusted(directory, shared=False, hint="Remove it.")
    return directory
