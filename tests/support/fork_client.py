"""A stand-in for the Python interpreter: has its command run by a fork server.

warm.py writes the executable, which calls `main()` with what it knows of the server. Signals go to the process that
runs the command, its exit status comes back. When this process is killed, the other one is killed as well. The real
interpreter runs what the server cannot stand in for: a command with interpreter options, or one with another value of a
variable that is read while the training stack is imported.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn, TypedDict

READ_AT_IMPORT = (
    *("GOMP_", "HF_", "HOME", "HUGGINGFACE_", "KMP_", "LD_", "MKL_", "OMP_", "PYTHON", "TRANSFORMERS_", "XDG_CACHE"),
)
"""Beginnings of the names of such variables."""
UNDERSTOOD = (
    *("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONUNBUFFERED"),
    # scikit-learn sets these as it is imported, so a child of a child has them, and the server has imported it, too.
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)
"""Those whose effect a child of the server can have all the same."""
KEPT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCONT}
"""Signals that are not passed on: they cannot be caught, or Python has a use for them."""


class Facts(TypedDict):
    """What is known of the server."""

    socket: str
    python: str
    """The real interpreter."""
    environment: dict[str, str]
    """At the server's imports."""
    namespaces: dict[str, int]
    """The inodes of the server's namespaces, by name."""


def main(facts: Facts) -> NoReturn:
    """Run the command of sys.argv and end as it ended."""
    arguments = sys.argv[1:]
    if not _is_plain(arguments):
        _run_cold(facts, arguments, "interpreter options")
    if differing := _differing(facts["environment"]):
        _run_cold(facts, arguments, " ".join(differing))
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(facts["socket"])
    except OSError as error:
        sys.exit(f"fork server: {error}\n{Path(facts['socket']).with_name('log').read_text()[-2000:]}")
    ignored = {int(one) for one in signal.valid_signals() if signal.getsignal(one) is signal.SIG_IGN}
    passed_on = [number for number in range(1, signal.SIGSYS + 1) if number not in KEPT | ignored]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    _send(connection, facts, arguments, sorted(ignored - KEPT), sorted(blocked))
    for number in passed_on:
        signal.signal(number, lambda received, _frame: connection.send(bytes([received])))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    answer = b""
    while not answer.endswith(b"\n"):
        part = connection.recv(64)
        if not part:
            sys.exit("the fork server has gone")
        answer += part
    if answer == b"cold\n":
        for number in passed_on:
            signal.signal(number, signal.SIG_DFL)
        _run_cold(facts, arguments, "namespaces")
    _end(int(answer.split()[1]))


def _is_plain(arguments: list[str]) -> bool:
    if not arguments:
        return False
    if arguments[0] in ("-m", "-c"):
        return len(arguments) > 1
    return not arguments[0].startswith("-")


def _differing(imported: dict[str, str]) -> list[str]:
    """Return the variables that matter at import and that have another value than at the server's imports."""
    names = {name for name in (*os.environ, *imported) if name.startswith(READ_AT_IMPORT)}
    return sorted(name for name in names.difference(UNDERSTOOD) if os.environ.get(name) != imported.get(name))


def _run_cold(facts: Facts, arguments: list[str], why: str) -> NoReturn:
    # Beside the socket, to see where the time goes.
    with Path(facts["socket"]).with_name("cold").open("a") as log:
        log.write(f"{why}: {' '.join(arguments)[:200]!r}\n")
    os.execv(facts["python"], [facts["python"], *arguments])  # noqa: S606 no shell is wanted


def _send(
    connection: socket.socket, facts: Facts, arguments: list[str], ignored: list[int], blocked: list[int]
) -> None:
    files = _inheritable_files()
    namespaces = [
        os.open(path, os.O_RDONLY)
        for name, inode in facts["namespaces"].items()
        if (path := Path("/proc/self/ns", name)).stat().st_ino != inode
    ]
    umask = os.umask(0o77)
    os.umask(umask)
    header = {
        "arguments": arguments,
        "stand_in": str(Path(facts["socket"]).with_name("python")),
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "umask": umask,
        "cpus": sorted(os.sched_getaffinity(0)),
        "ignored": ignored,
        "blocked": blocked,
        "files": files,
    }
    text = json.dumps(header).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], [*files, *namespaces])
    connection.sendall(text)


def _inheritable_files() -> list[int]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            if os.get_inheritable(int(path.name)):
                found.append(int(path.name))
        except OSError:
            continue  # the directory that was being listed
    return sorted(found)


def _end(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))
