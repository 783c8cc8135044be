"""The command line in a warm process: each call is a fork that has the launcher's modules imported.

Run as a program it reads one JSON object a line (`arguments`, `directory`, `environ`, `output`) and answers with one
(`status`, `seconds`, `stdout`, `stderr`). A call that goes on for longer than `limit_s` is killed and has status null.
"""

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

ROOT = Path(__file__).resolve().parents[2]
Output = Literal["file", "full", "closed"]
"""What standard output is: a file, a full disk (/dev/full), or closed."""


@dataclass(frozen=True)
class Answer:
    """What a call came to; `status` is None where it had to be killed."""

    status: int | None
    seconds: float
    stdout: str
    stderr: str


class Server:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def call(
        self,
        arguments: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        *,
        limit_s: float,
        output: Output = "file",
    ) -> Answer:
        """Run one command line and return what it came to."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {
            "arguments": list(arguments),
            "directory": str(directory),
            "environ": dict(environ),
            "limit_s": limit_s,
            "output": output,
        }
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Answer(**json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Start a server; it ends with the block."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.cli_server"],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def _warm_up() -> None:
    """Import what most calls need: one whole plan."""
    from launcher.cli.main import main

    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        os.environ["HOME"] = directory
        Path("small.py").write_text("def configure():\n    return None\n")
        for arguments in (
            ["plan", "small.py", "--cluster", "local", "--no-check-config", "train.train_iters=3", "--script"],
            ["plan", "small.py", "--cluster", "local", "train.train_iters=[3]"],
            ["clusters", "show", "slurm"],
            ["status"],
            ["recipes", "nothing"],
            ["image", "list", "--cluster", "local"],
        ):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                main(arguments)
        os.chdir("/")


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(asked, out, err)
        status = _wait(pid, asked["limit_s"])
        seconds = time.monotonic() - begin
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(1 << 20).decode(errors="replace"))
    return {"status": status, "seconds": seconds, "stdout": texts[0], "stderr": texts[1]}


def _wait(pid: int, limit_s: float) -> int | None:
    descriptor = os.pidfd_open(pid)
    try:
        ended = bool(select.select([descriptor], [], [], limit_s)[0])
        if not ended:
            os.killpg(pid, signal.SIGKILL)
        found = os.waitpid(pid, 0)[1]
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(found) if ended else None


def _child(asked: dict[str, Any], out: BinaryIO, err: BinaryIO) -> None:
    """Become the call: as the console script, with its streams, directory and environment."""
    status = 70
    try:
        os.setpgid(0, 0)
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["environ"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(err.fileno(), 2)
        os.dup2(os.open("/dev/full", os.O_WRONLY) if asked["output"] == "full" else out.fileno(), 1)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        if asked["output"] == "closed":
            os.close(1)
            sys.stdout = None  # as the interpreter starts without it
        sys.argv = ["launcher", *asked["arguments"]]
        from launcher.cli.main import console

        console()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    _warm_up()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
