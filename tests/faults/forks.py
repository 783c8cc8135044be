"""Launchers that start at once: each command is a fork of a server that has the launcher imported.

For tests that start a hundred launchers and kill most of them. A command may be given faults, see `Fault`.
"""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.backends.running import ROOT, User
from tests.support.limits import seconds

MODULES = (
    "launcher.cli.main",
    "launcher.cli.commands.submit",
    "launcher.cli.progress",
    "launcher.discovery.profiler",
    "launcher.api.once",
    "launcher.api.prepare_plan",
    "launcher.api.submit",
    "launcher.backends.batch",
    "launcher.scripts.render",
    "launcher.watch.status",
    "launcher.planning.make",
    "shutil",
    "subprocess",
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a command."""

    fail_at: int | None = None
    """Which change of a file fails with EIO; 0: none, they are counted. Copies of the launcher's own code are not."""
    sticky: bool = False
    """Whether all changes after it fail as well."""
    below: str = "/"
    """Where changes count."""
    count: str | None = None
    """A file for the number of changes."""
    run_id: str | None = None
    """The id that is drawn first for a new run."""


NONE = Fault()
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CODE = re.compile(r"/code/|/\.code-[0-9]+/")
"""Files of a run's code, and the copies of them that runs share: hundreds, of which one counts."""


@dataclass(frozen=True)
class Forked:
    """A command that was started."""

    server: "Launchers"
    pid: int
    output: Path

    def kill(self) -> None:
        """SIGKILL; a command that has ended is not waited for yet, so its number is still its own."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return the exit status; 137 for a killed one."""
        return int(self.server.ask({"wait": self.pid})["status"])

    @property
    def text(self) -> str:
        """What it has printed; nothing where it was killed before it had begun."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Launchers:
    """The server; commands run in the user's directory with the user's environment."""

    def __init__(self, user: User, process: "subprocess.Popen[str]") -> None:
        self._user, self._process, self._number = user, process, 0

    def start(self, *arguments: str, fault: Fault = NONE, environ: Mapping[str, str] | None = None) -> Forked:
        """Start `launcher ARGUMENTS`."""
        self._number += 1
        output = self._user.directory / f"output-{self._number}"
        command = {
            "argv": arguments,
            "cwd": str(self._user.directory),
            "environ": {**self._user.environ, **(environ or {})},
            "output": str(output),
            "fault": asdict(fault),
        }
        return Forked(self, int(self.ask(command)["pid"]), output)

    def run(self, *arguments: str, fault: Fault = NONE, status: int | None = 0) -> Forked:
        """Run `launcher ARGUMENTS`; it has to end with `status`."""
        done = self.start(*arguments, fault=fault)
        found = done.wait()
        assert status is None or found == status, f"{arguments}: {found}\n{done.text}"
        return done

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def launchers(user: User) -> Iterator[Launchers]:
    """Start a server for this user; commands that still run at the end are killed."""
    argv = [sys.executable, "-m", "tests.faults.forks"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        yield Launchers(user, process)
        process.stdin.close()
        process.wait(seconds(10))


def serve() -> None:
    """Fork a child for each command on standard input."""
    import importlib

    for module in MODULES:
        importlib.import_module(module)
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            running.discard(request["wait"])
            answer = {"status": os.waitstatus_to_exitcode(status) % 256 if os.WIFEXITED(status) else 137}
        else:
            if (pid := os.fork()) == 0:
                _command(request)
            running.add(pid)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _command(request: dict[str, Any]) -> None:
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    status = 1
    try:
        from launcher.cli.main import main

        _install(Fault(**request["fault"]))
        status = main(request["argv"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _install(fault: Fault) -> None:
    if fault.run_id is not None:
        from launcher.discovery import host

        host.new_run_id = lambda now: fault.run_id  # type: ignore[assignment,return-value] # noqa: ARG005
    if fault.fail_at is not None:
        changes = _Changes(fault)
        os.write, os.fsync = changes.write, changes.fsync  # type: ignore[assignment]
        sys.addaudithook(changes.hook)


class _Changes:
    """The changes of files that count, one of which may fail."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._done = fault, 0
        self._counter = os.open(fault.count, os.O_WRONLY | os.O_CREAT) if fault.count is not None else -1
        self._real = (os.write, os.fsync)

    def change(self, path: object) -> None:
        """Count one more; raise OSError where it is to fail."""
        fault, text = self._fault, os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(fault.below) or (_CODE.search(text) and not text.endswith("small.py")):
            return
        self._done += 1
        if self._counter >= 0:
            os.pwrite(self._counter, f"{self._done:6}".encode(), 0)
        if fault.fail_at and (self._done == fault.fail_at or (fault.sticky and self._done > fault.fail_at)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), text)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at an event of the interpreter, see sys.addaudithook."""
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            self.change(arguments[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.change(arguments[1])
        elif event == "os.mkdir":
            self.change(arguments[0])

    def write(self, descriptor: int, data: bytes) -> int:
        """Stand in for os.write, which is not among the events."""
        self.change(_name(descriptor))
        return self._real[0](descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Stand in for os.fsync."""
        self.change(_name(descriptor))
        self._real[1](descriptor)


def _name(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115


if __name__ == "__main__":
    serve()
