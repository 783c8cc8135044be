"""The program that answers requests from another machine, on the host: `python -m launcher.remote.host`.

It reads one request, a line of JSON, and then lets this host's launcher do it, as if the user had typed it here. A
submission is the launcher's own `submit --once`: however often and however late it arrives, there is one job.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, LauncherError, OutsideError, RequestError
from launcher._util.ownership import require_trusted
from launcher._util.tables import safe
from launcher._util.version import __version__
from launcher.config.load import ON_HOST
from launcher.remote.connection import PROFILES, PULL_HEAD

_LEFT_OUT = ("checkpoints", "set-aside", "code")
"""Directories of a run that are not copied without --checkpoints."""


def main() -> int:
    """Answer one request and return the exit status, as the launcher's commands have it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the connection may end; a submission goes on
    request: dict[str, Any] = {}
    try:
        request = _read()
        _require_this_release(request)
        if request["command"] == "pull":
            return _pull(request)
        return _run(request)
    except LauncherError as error:
        return _report(error, request)


def _read() -> dict[str, Any]:
    """Return the request. Raises OutsideError for one that did not arrive whole."""
    line = sys.stdin.buffer.readline()
    try:
        request = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise OutsideError("the request did not arrive whole; nothing was done")
    return request


def _require_this_release(request: dict[str, Any]) -> None:
    if request.get("launcher") != __version__:
        raise RequestError(
            f"the launcher there is {__version__}, and the one here {request.get('launcher')}",
            hint="Install the same release on both machines.",
        )


def _run(request: dict[str, Any]) -> int:
    """Let the launcher do what is asked; its output is the answer."""
    root = Path(os.path.expandvars(request["run_root"])).expanduser()
    root = root if root.is_absolute() else Path.home() / root
    arguments = [str(root) if word is None else word for word in request["arguments"]]
    directory = _unpack(request["package"], root) if request.get("package") else Path.home()
    environ = {**os.environ, **request.get("environment", {}), ON_HOST: "1"}
    environ.pop("LAUNCHER_CLUSTER", None)
    argv = [sys.executable, "-m", "launcher", *arguments]
    process = subprocess.Popen(argv, cwd=directory, env=environ, stdin=subprocess.DEVNULL)
    if arguments[0] in ("status", "logs"):  # what only shows something ends with the one that looks at it
        threading.Thread(target=_end_with_the_caller, args=(process,), daemon=True).start()
    status = process.wait()
    if request.get("package") and arguments[0] != "submit":  # a plan has no later try
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _end_with_the_caller(process: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):  # sys.stdin is locked while it is read, also where the interpreter ends
        pass
    process.send_signal(signal.SIGINT)


def _unpack(package: dict[str, Any], root: Path) -> Path:
    """Write the files of a submission into a directory of its own, whole or not at all, and return it.

    A directory that is there already is of an earlier try with the same token. Raises RequestError where it holds
    another request.
    """
    try:
        parent = root / f".from-elsewhere-{os.geteuid()}"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_trusted(parent, shared=False, hint="Remove it, or name another run root.")
        directory = parent / hashlib.sha256(package["token"].encode()).hexdigest()[:32]
        if not directory.exists():
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
            try:
                _write(package, partial)
                partial.rename(directory)
            except OSError:
                if not directory.exists():  # another try was first
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DiskError(f"the files of the run cannot be written: {error.strerror}", where=str(root)) from error
    if (directory / "digest").read_text() != package["digest"]:
        raise RequestError(
            f"the key {package['token']} belongs to another request",
            where="--once",
            hint="Ask for the same again to get that run, or choose another key.",
        )
    return directory


def _write(package: dict[str, Any], directory: Path) -> None:
    import tomlkit

    content = base64.b64decode(package["archive"])
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        tar.extractall(directory, filter="data")
    (directory / PROFILES).mkdir()
    (directory / PROFILES / f"{package['cluster']}.toml").write_text(tomlkit.dumps(package["profile"]))
    (directory / "job.toml").write_text(tomlkit.dumps(package["job"]))
    (directory / "digest").write_text(package["digest"])


def _pull(request: dict[str, Any]) -> int:
    """Write a run's files to standard output: a line of JSON, then a compressed tar archive."""
    from launcher.api.locate import find_run

    root = Path(os.path.expandvars(request["run_root"])).expanduser()
    os.environ[ON_HOST] = "1"
    run = find_run(request["run"], str(root if root.is_absolute() else Path.home() / root))
    head = {"name": run.path.parent.name, "run_id": run.path.name, "path": str(run.path)}
    out = sys.stdout.buffer
    out.write(PULL_HEAD + json.dumps(head).encode() + b"\n")
    left_out = () if request["checkpoints"] else _LEFT_OUT
    with tarfile.open(fileobj=out, mode="w|gz", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(run.path.rglob("*")):
            name = path.relative_to(run.path)
            if name.parts[0] in left_out or not (path.is_file() and not path.is_symlink()):
                continue
            try:
                content = path.open("rb")
            except FileNotFoundError:
                continue  # a temporary one of a run that goes on
            with content:
                entry = tar.gettarinfo(arcname=str(name), fileobj=content)
                tar.addfile(entry, _Exactly(content, entry.size))
    out.flush()
    return 0


class _Exactly(io.RawIOBase):
    """A file of which so many bytes are read, also where it has become shorter: a log that was begun anew."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        content: bytes = self._file.read(wanted)
        content += b"\0" * (wanted - len(content))
        self._left -= wanted
        return content


def _report(error: LauncherError, request: dict[str, Any]) -> int:
    """Answer with an error, as the request's command does, and return the exit status."""
    where = f"{error.where}: " if error.where else ""
    if request.get("command") == "pull":
        shown = {"error": f"{where}{error.message}", "hint": error.hint}
        sys.stdout.buffer.write(PULL_HEAD + json.dumps(shown).encode() + b"\n")
        return error.exit_status
    print(safe(f"error: {where}{error.message} [{error.id}]"), file=sys.stderr)
    if error.hint:
        print(safe(error.hint), file=sys.stderr)
    if "--json" in request.get("arguments", ()):
        parts = {name: getattr(error, name) for name in ("id", "message", "where", "hint")}
        found = {"error": {"kind": type(error).__name__, **parts}, "exit_status": error.exit_status}
        print(json.dumps(found, indent=1, sort_keys=True))
    return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
