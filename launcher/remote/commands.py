"""The commands that work from elsewhere: submit, plan, status, logs, cancel and pull."""

import json
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError, DiskError, OutsideError, RequestError
from launcher.api.locate import find_run_root
from launcher.config.request import Request
from launcher.remote.cluster import RemoteCluster
from launcher.remote.connection import ConnectionLostError, call, request_line, show, stream
from launcher.remote.package import pack

_TRIES = 6
_PAUSE_S = 1.0
PULLED = ".pulled-from"
"""A file in the copy of a run: where it is from."""


def submit_there(
    there: RemoteCluster, asked: Request, once: str | None, say: Callable[[str], None]
) -> tuple[int, dict[str, Any]]:
    """Submit a request on the host, once; return the exit status and the answer of its `submit --json`.

    A connection that is lost is opened again, and the same submission repeated: the host's launcher knows its token.
    Raises ConnectionLostError where the host cannot be reached any more; the message has the token.
    """
    token = once or f"elsewhere-{secrets.token_hex(8)}"
    arguments = ["submit", "job.toml", *_at(there), "--once", token, "--json"]
    request = _with_package(there, asked, token, arguments)
    for number in range(1, _TRIES + 1):
        try:
            answer = call(there.ssh, request)
        except ConnectionLostError as error:
            if number == _TRIES:
                error.message = f"{error.message}; whether the job was submitted is not known"
                error.hint = f"The same command with --once {token} submits it, or shows the job that it has."
                raise
            say(f"{error.message}; trying again ({number} of {_TRIES - 1}), with the same token")
            time.sleep(_PAUSE_S * number)
            continue
        return answer.status, _object(answer.stdout, answer.status)
    raise AssertionError  # the last try returns or raises


def plan_there(there: RemoteCluster, asked: Request, words: Sequence[str]) -> int:
    """Show the plan that the host's launcher makes of a request; return the exit status."""
    arguments = ["plan", "job.toml", *_at(there), "--for", "submit", *words]
    return show(there.ssh, _with_package(there, asked, f"plan-{secrets.token_hex(8)}", arguments))


def run_there(there: RemoteCluster, command: str, words: Sequence[str]) -> int:
    """Run a command about runs on the host, with its output as it comes; return the exit status."""
    arguments: list[str | None] = [command, *words, "--run-root", None]
    return show(there.ssh, request_line("run", arguments=arguments, run_root=there.run_root))


def pull(there: RemoteCluster, run: str, root: str | None, *, checkpoints: bool) -> Path:
    """Copy a run's directory from the host below a run root of this machine, whole or not at all, and return it.

    An older copy is replaced. Raises RequestError where another run is in its place, OutsideError, DiskError.
    """
    above = find_run_root(root)
    above.mkdir(parents=True, exist_ok=True)
    request = request_line("pull", run=run, checkpoints=checkpoints, run_root=there.run_root)
    partial = Path(tempfile.mkdtemp(prefix=".pull-", dir=above))
    try:
        return _receive(there, request, partial, above)
    except (OSError, EOFError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DiskError(f"the run cannot be copied: {error.strerror}", where=str(above)) from error
        raise OutsideError(f"{there.ssh.host}: the connection ended before the whole run was copied") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _receive(there: RemoteCluster, request: bytes, partial: Path, above: Path) -> Path:
    with stream(there.ssh, request) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if line:
            head = json.loads(line)
            with tarfile.open(fileobj=process.stdout, mode="r|gz") as tar:
                tar.extractall(partial / "run", filter="data")
        status = process.wait()
    if not line or status != 0:
        if status in (1, 2):
            raise RequestError(f"{there.ssh.host} has no such run", where=f"--cluster {there.cluster.name}")
        raise OutsideError(f"{there.ssh.host}: the connection failed or ended (status {status})")
    copy = above / _plain(head["name"]) / _plain(head["run_id"])
    if copy.exists() and not (copy / PULLED).exists():
        raise RequestError("a run of this machine is in this place", where=str(copy), hint="Name another --run-root.")
    (partial / "run" / PULLED).write_text(json.dumps({"host": there.ssh.host, "path": head["path"]}) + "\n")
    copy.parent.mkdir(parents=True, exist_ok=True)
    if copy.exists():
        copy.rename(partial / "older")
    (partial / "run").rename(copy)
    return copy


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise OutsideError(f"{name!r} is not the name of a run")
    return name


def _at(there: RemoteCluster) -> list[str | None]:
    return ["--cluster", f"./{there.cluster.name}.toml", "--run-root", None]


def _with_package(there: RemoteCluster, asked: Request, token: str, arguments: Sequence[str | None]) -> bytes:
    if asked.run_root is not None:
        raise ConfigError(
            "the runs of this cluster are where its profile says",
            where="--run-root",
            hint="Change run_root below [ssh] of the profile.",
        )
    package = pack(asked, there.cluster, there.host)
    shipped = {
        "token": token,
        "digest": package.digest(),
        "cluster": there.cluster.name,
        "job": package.job,
        "profile": package.profile,
        "archive": package.archive(),
    }
    return request_line(
        "run", arguments=arguments, run_root=there.run_root, package=shipped, environment=package.environment
    )


def _object(stdout: bytes, status: int) -> dict[str, Any]:
    """Return the object that a command with --json printed; a host's shell may print lines before it."""
    text = stdout.decode(errors="replace")
    try:
        found: dict[str, Any] = json.loads(text[text.index("{") :])
    except ValueError:
        raise OutsideError(f"the host's launcher ended with status {status} and without an answer") from None
    return found
