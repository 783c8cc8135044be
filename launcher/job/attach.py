"""What `launcher exec` and `launcher stacks` run beside a rank: `python3 attach.py exec|stacks PID ...`.

`exec PID COMMAND ...` becomes the command, with the environment and the directory that the rank's program was started
with. `stacks PID` prints one JSON object on one line: a StackDump. Standard library alone.
"""

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.contract.records.nodes import StackDump
from launcher.job.watch import watchdog
from launcher.job.watch.heartbeat import STACK_SIGNAL

_PY_SPY_S = 20.0
_ANSWER_S = 3.0
_LARGEST_BYTES = 1 << 20


def environment_of(pid: int) -> "dict[str, str]":
    """Return the environment that a process was started with. Raises OSError."""
    pairs = (word.partition(b"=") for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}


def become(pid: int, command: Sequence[str]) -> int:
    """Replace this process by a command in the rank's environment; return 127 where there is no such program."""
    environ = environment_of(pid)
    if "TERM" in os.environ:  # that of the terminal which the command is shown on
        environ["TERM"] = os.environ["TERM"]
    os.chdir(environ["LAUNCHER_RUN_DIR"])
    try:
        os.execvpe(command[0], list(command), environ)  # noqa: S606 - the user's own command, without a shell
    except OSError as error:
        print(f"launcher: {command[0]}: {error.strerror} (in the container of the rank)", file=sys.stderr)
    return 127


def dump(pid: int) -> StackDump:
    """Return the stacks of a rank: by py-spy where it is there and may look, else those that the rank writes itself."""
    environ = environment_of(pid)
    found: StackDump = {
        "rank": int(environ["RANK"]),
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "pid": pid,
        "by": None,
        "text": "",
        "problem": None,
    }
    os.environ["PATH"] = os.pathsep.join((_programs_beside(pid), environ.get("PATH", ""), os.environ.get("PATH", "")))
    spy = watchdog.start_py_spy(pid)
    text, problem = ("", "no py-spy") if spy is None else watchdog.finish_py_spy(spy, time.monotonic() + _PY_SPY_S)
    if text.strip():
        return {**found, "by": "py-spy", "text": text}
    text, reason = written_stack(pid)
    if text:
        return {**found, "by": "faulthandler", "text": text, "problem": problem or None}
    return {**found, "problem": f"{problem}; {reason}"}


def _programs_beside(pid: int) -> str:
    """Return the directory of the interpreter as the rank was called, which has the programs of its environment."""
    with contextlib.suppress(OSError):  # the process has ended
        called = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0])
        if "/" in called:
            return str(Path(called).parent)
    return ""


def written_stack(pid: int) -> "tuple[str, str]":
    """Ask a rank for the stack of its main thread, which it writes to a file that it holds open; else say why not.

    The file has no name any more (job/watch/heartbeat.py), so it is read through /proc.
    """
    if not watchdog.catches(pid, STACK_SIGNAL):
        return "", "the rank does not answer: it has not come as far, or watches for no hangs"
    path = _open_stack_file(pid)
    if path is None:
        return "", "the file of the rank's stacks is not open"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        return "", f"the file of the rank's stacks cannot be read: {error.strerror}"
    try:
        begin = os.fstat(descriptor).st_size
        watchdog.signal_main_thread(pid, STACK_SIGNAL)
        end, size = time.monotonic() + _ANSWER_S, begin
        while time.monotonic() < end:
            time.sleep(0.1)  # a stack is written line by line
            now = os.fstat(descriptor).st_size
            if now > begin and now == size:
                break
            size = now
        text = os.pread(descriptor, min(max(0, size - begin), _LARGEST_BYTES), begin).decode(errors="replace")
    finally:
        os.close(descriptor)
    return text, "" if text else "the rank did not answer: it is stopped, or waits in the kernel"


def _open_stack_file(pid: int) -> "Path | None":
    with contextlib.suppress(OSError):  # the process has ended
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if re.search(r"/stack-[0-9]+( \(deleted\))?$", str(path.readlink())):
                    return path
    return None


def main(words: Sequence[str]) -> int:
    """Run one action."""
    action, pid = words[0], int(words[1])
    if action == "exec":
        return become(pid, words[2:])
    print(json.dumps(dump(pid)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
