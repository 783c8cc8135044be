"""The keeper: one process that owns every daemon of a virtual cluster and ends with all of them.

It starts daemons when asked over a Unix socket (one JSON object a line, one line back), collects what they leave, and
tears the cluster down on request, or when the process that wanted the cluster is gone: it holds the read end of a
pipe whose write end only that process has, so even SIGKILL there is noticed. Where namespaces work the keeper is
process 1 of a PID namespace: if the keeper itself is killed, the kernel kills everything in it.

Standard library only, and it runs with `python3 -I -S`: starting it is part of the half second that a cluster costs.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def parents() -> dict[int, int]:
    """Every visible process and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command in parentheses may hold spaces and parentheses itself: the last ")" ends it.
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def tree(roots: set[int]) -> set[int]:
    """All descendants of `roots` (without them)."""
    family = parents()
    found: set[int] = set()
    frontier = set(roots)
    while frontier:
        frontier = {pid for pid, parent in family.items() if parent in frontier} - found
        found |= frontier
    return found


def holds_open(pid: int, path: Path) -> bool:
    """Whether a process has `path` open."""
    with contextlib.suppress(OSError):
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


class Keeper:
    def __init__(self, directory: Path, is_init: bool) -> None:
        self.directory = directory
        self.is_init = is_init
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.done = False

    def start(self, name: str, argv: list[str]) -> int:
        """Start a daemon; its output goes to log/NAME.out. A second start while the first runs is refused."""
        if (old := self.daemons.get(name)) is not None and old.returncode is None:
            raise ValueError(f"{name} is running already")
        # With process 1 of a namespace the kernel ends everybody; elsewhere each daemon must ask for that itself.
        dies_with_keeper = None if self.is_init else lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with (self.directory / "log" / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dies_with_keeper,
            )
        return self.daemons[name].pid

    def signal(self, name: str, number: int) -> int:
        """Send a signal to one daemon; SIGKILL takes everything with it that runs on its node."""
        daemon = self.daemons.get(name)
        if daemon is None or daemon.returncode is not None:
            raise ValueError(f"{name} is not running")
        os.kill(daemon.pid, number)
        if number == signal.SIGKILL:
            self.end_node(name, daemon.pid)
        return daemon.pid

    def end_node(self, name: str, pid: int) -> None:
        """Kill what a dead daemon leaves. slurmstepd detaches from slurmd: it is known by the log that it has open."""
        log = self.directory / "log" / f"{name}.log"

        def left() -> set[int]:
            steps = {each for each in tree({os.getpid()}) if each == pid or holds_open(each, log)}
            return steps | tree(steps)

        self.kill_all(left)

    def kill_all(self, find: Callable[[], set[int]]) -> None:
        """SIGKILL what `find()` returns until that is nothing: a process may start another while it is being killed."""
        deadline = time.monotonic() + 10
        while (pids := find()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
            self.collect()

    def collect(self) -> None:
        """Collect ended children: our daemons, and orphans of theirs."""
        with contextlib.suppress(ChildProcessError):
            while (result := os.waitpid(-1, os.WNOHANG))[0]:
                for daemon in self.daemons.values():
                    if daemon.pid == result[0]:
                        daemon.returncode = os.waitstatus_to_exitcode(result[1])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request: {"do": "start"|"signal"|"running"|"down", ...}."""
        self.collect()
        what = request["do"]
        if what == "start":
            return {"ok": True, "pid": self.start(request["name"], request["argv"])}
        if what == "signal":
            return {"ok": True, "pid": self.signal(request["name"], request["signal"])}
        if what == "running":
            return {
                "ok": True,
                "running": sorted(name for name, each in self.daemons.items() if each.returncode is None),
            }
        if what == "down":
            self.down()
            return {"ok": True}
        raise ValueError(f"unknown request: {what}")

    def down(self) -> None:
        """Kill everything, remove the directory."""
        self.done = True
        self.kill_all(lambda: tree({os.getpid()}))
        shutil.rmtree(self.directory, ignore_errors=True)

    def serve(self, server: socket.socket, owner_fd: int) -> None:
        """Answer requests until `down`, or until the owner's end of the pipe `owner_fd` (-1: without one) is closed."""
        wakeup, wakeup_write = os.pipe()
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            channels: list[socket.socket | int] = [server, wakeup]
            for channel in channels + ([owner_fd] if owner_fd >= 0 else []):
                selector.register(channel, selectors.EVENT_READ)
            while not self.done:
                for key, _ in selector.select():
                    if key.fileobj == owner_fd:
                        self.down()
                        return
                    if key.fileobj == wakeup:
                        os.read(wakeup, 4096)
                        self.collect()
                    else:
                        self.converse(server.accept()[0])

    def converse(self, connection: socket.socket) -> None:
        # A client that hangs or dies must not stop the cluster.
        connection.settimeout(5)
        with connection, contextlib.suppress(OSError), connection.makefile("rw", encoding="utf-8") as stream:
            try:
                reply = self.answer(json.loads(stream.readline()))
            except (ValueError, KeyError, OSError) as error:
                reply = {"ok": False, "error": str(error)}
            stream.write(json.dumps(reply) + "\n")


def main() -> None:
    directory, owner_fd, guard_fd = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for fd in (owner_fd, guard_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Ctrl-C at the terminal is for the tests; TERM (a machine that shuts down) ends the cluster in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper(directory, is_init=os.getpid() == 1)

    def end(*_: object) -> None:
        keeper.down()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "run" / "keeper.sock"))
        server.listen(16)
        keeper.serve(server, owner_fd)


if __name__ == "__main__":
    main()
