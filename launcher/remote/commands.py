"""The commands that work from elsewhere: submit, plan, status, logs, cancel and pull."""

import json
import secrets
import shlex
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from launcher._util.errors import DiskError, OutsideError, RequestError
from launcher.api.locate import find_run_root
from launcher.config.request import Request
from launcher.contract.files import read_object
from launcher.contract.paths import PULLED
from launcher.remote.cluster import RemoteCluster
from launcher.remote.connection import (
    PROFILES,
    PULL_HEAD,
    ConnectionLostError,
    HostAnswer,
    call,
    request_line,
    require_answer,
    show,
    stream,
)
from launcher.remote.package import pack
from launcher.rundir import RunDirectory

_TRIES = 6
_PAUSE_S = 1.0


def submit_there(
    there: RemoteCluster, asked: Request, once: str | None, say: Callable[[str], None]
) -> tuple[int, dict[str, Any]]:
    """Submit a request on the host, once; return the exit status and the answer of its `submit --json`.

    A connection that is lost is opened again, and the same submission repeated: the host's launcher knows its token.
    Raises ConnectionLostError where the host cannot be reached any more, OutsideError where there is no answer; the
    message has the token. An interrupt shows it as well.
    """
    token = once or f"elsewhere-{secrets.token_hex(8)}"
    arguments = ["submit", "job.toml", *_at(there), "--once", token, "--json"]
    request = _with_package(there, asked, token, arguments, say)
    hint = f"The same command with --once {shlex.quote(token)} submits it, or shows the job that it has."
    try:
        answer = _repeated(there, request, say)
    except ConnectionLostError as error:
        error.message, error.hint = f"{error.message}; {_UNKNOWN}", hint
        raise
    except KeyboardInterrupt:
        say(f"interrupted; {_UNKNOWN}. {hint}")
        raise
    found = _object(answer.stdout)
    if found is None:
        text = f"the launcher on {there.ssh.host} ended with status {answer.status} and without an answer; {_UNKNOWN}"
        raise OutsideError(text, hint=hint)
    if answer.status == OutsideError.exit_status:  # Slurm may not have answered, and the job may exist
        say(hint)
    return answer.status, found


_UNKNOWN = "whether the job was submitted is not known"


def _repeated(there: RemoteCluster, request: bytes, say: Callable[[str], None]) -> HostAnswer:
    """Return the answer to a request that may be repeated. Raises ConnectionLostError."""
    for number in range(1, _TRIES):
        try:
            return call(there.ssh, request)
        except ConnectionLostError as error:
            say(f"{error.message}; trying again ({number} of {_TRIES - 1}), with the same token")
            time.sleep(_PAUSE_S * number)
    return call(there.ssh, request)


def plan_there(there: RemoteCluster, asked: Request, words: Sequence[str], say: Callable[[str], None]) -> int:
    """Show the plan that the host's launcher makes of a request; return the exit status."""
    arguments = ["plan", "job.toml", *_at(there), "--for", "submit", *words]
    return show(there.ssh, _with_package(there, asked, f"plan-{secrets.token_hex(8)}", arguments, say))


def run_there(there: RemoteCluster, command: str, words: Sequence[str]) -> int:
    """Run a command about runs on the host, with its output as it comes; return the exit status."""
    arguments: list[str | None] = [command, *words, "--run-root", None]
    return show(there.ssh, request_line("run", arguments=arguments, run_root=there.run_root))


def pull(there: RemoteCluster, run: str, root: str | None, *, checkpoints: bool) -> Path:
    """Copy a run's directory from the host below a run root of this machine, whole or not at all, and return it.

    An older copy is replaced, unless it has checkpoints and this one is to have none. Raises RequestError where that or
    another run is in its place, OutsideError, DiskError.
    """
    above = find_run_root(root)
    above.mkdir(parents=True, exist_ok=True)
    request = request_line("pull", run=run, checkpoints=checkpoints, run_root=there.run_root)
    partial = Path(tempfile.mkdtemp(prefix=".pull-", dir=above))
    try:
        head = _receive(there, request, partial)
        return _put_in_place(there, head, partial, above, checkpoints=checkpoints)
    except (OSError, EOFError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DiskError(f"the run cannot be copied: {error.strerror}", where=str(above)) from error
        raise OutsideError(f"{there.ssh.host}: the connection ended before the whole run was copied") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _receive(there: RemoteCluster, request: bytes, partial: Path) -> dict[str, Any]:
    """Copy the files into `partial`/run and return what the host says of the run."""
    with stream(there.ssh, request) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        head = _head(process.stdout)
        if head is not None and "error" not in head:
            with tarfile.open(fileobj=process.stdout, mode="r|gz") as tar:
                tar.extractall(partial / "run", filter="data")
        status = process.wait()
    if head is not None and "error" in head:
        kind = RequestError if status == RequestError.exit_status else OutsideError
        raise kind(f"{there.ssh.host}: {head['error']}", where=f"--cluster {there.cluster.name}", hint=head["hint"])
    require_answer(there.ssh, status)
    if head is None or status != 0:
        raise OutsideError(
            f"the launcher on {there.ssh.host} ended with status {status} before the whole run was copied"
        )
    return head


def _head(answer: IO[bytes]) -> dict[str, Any] | None:
    """Return the object of the first line of the launcher's own; None where there is none."""
    for line in answer:
        if line.startswith(PULL_HEAD) and line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line.removeprefix(PULL_HEAD))
            return found
    return None


def _put_in_place(
    there: RemoteCluster, head: Mapping[str, Any], partial: Path, above: Path, *, checkpoints: bool
) -> Path:
    copy = above / _plain(head["name"]) / _plain(head["run_id"])
    if copy.exists() and RunDirectory(copy).pulled_from is None:
        raise RequestError("a run of this machine is in this place", where=str(copy), hint="Name another --run-root.")
    if not checkpoints and (read_object(copy / PULLED) or {}).get("checkpoints"):
        raise RequestError(
            "the copy in this place has checkpoints, which the new one would not have",
            where=str(copy),
            hint="Copy them again with --checkpoints, or remove the copy.",
        )
    RunDirectory(partial / "run").note_pulled(there.ssh.host, head["path"], checkpoints=checkpoints)
    copy.parent.mkdir(parents=True, exist_ok=True)
    older = partial / "older"
    if copy.exists():
        copy.rename(older)
    try:
        (partial / "run").rename(copy)
    except BaseException:
        if older.exists():
            older.rename(copy)
        raise
    return copy


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise OutsideError(f"{name!r} is not the name of a run")
    return name


def _at(there: RemoteCluster) -> list[str | None]:
    return ["--cluster", f"./{PROFILES}/{there.cluster.name}.toml", "--run-root", None]


def _with_package(
    there: RemoteCluster, asked: Request, token: str, arguments: Sequence[str | None], say: Callable[[str], None]
) -> bytes:
    package = pack(asked, there.cluster, there.host)
    for text in package.warnings:
        say(text)
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


def _object(stdout: bytes) -> dict[str, Any] | None:
    """Return the object that `submit --json` printed last; a host's shell may print lines before it, also objects."""
    text = "\n" + stdout.decode(errors="replace")
    try:
        found: dict[str, Any] = json.loads(text[text.rindex("\n{") :])
    except ValueError:
        return None
    return found if "run_id" in found or "error" in found else None
