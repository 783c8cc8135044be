"""Programs that take minutes: their output is handed over as it comes, and none of them is left behind.

Used through `launcher._util.shell.Shell.stream`. The `sh` package starts the programs; the calling thread reads their
output, so that progress with carriage returns arrives at once and an interruption is raised where it belongs.
"""

import codecs
import contextlib
import errno
import os
import selectors
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from launcher._util.errors import CommandError, MissingProgramError
from launcher._util.processes import group_members
from launcher._util.program import OnText, OnTick, Result

GRACE_S = 8
"""How long programs may clean up after SIGTERM."""

_KEPT = 64 * 1024
_PIECE = 64 * 1024
_TICK_S = 0.2

# It waits for a line from the launcher: "over". The end of its input without that line means that the launcher was
# killed; then it ends the programs (process groups $1, $2).
_WATCHER = f'read -r _ && exit; for g; do kill -TERM "-$g"; done; sleep {GRACE_S}; for g; do kill -KILL "-$g"; done'


@dataclass
class _Reader:
    """One stream of one program: decodes its bytes, keeps the end of the text."""

    fd: int
    name: Literal["out", "err"]
    on_text: OnText | None
    tail: str = ""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self) -> bool:
        """Read a piece; return False at the end."""
        try:
            piece = os.read(self.fd, _PIECE)
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal without writers ends, see pty(7)
                raise
            piece = b""
        text = self.decoder.decode(piece, final=not piece)
        if text:
            self.tail = (self.tail + text)[-_KEPT:]
            if self.on_text is not None:
                self.on_text(self.name, text)
        return bool(piece)


@dataclass
class _Program:
    argv: tuple[str, ...]
    process: Any  # sh's OProc; its group is its pid
    readers: list[_Reader]

    def alive(self) -> bool:
        return bool(self.process.is_alive()[0])

    def group_alive(self) -> bool:
        """Return whether it, or a process that it started and that did not leave its group, still runs."""
        return self.alive() or bool(group_members(self.process.pid))

    def ended(self) -> Result:
        status = int(self.process.wait())
        texts = {each.name: each.tail for each in self.readers}
        return Result(self.argv, status if status >= 0 else 128 - status, texts.get("out", ""), texts["err"])


def run(
    programs: Sequence[tuple[str, ...]],
    on_text: OnText | None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    terminal: bool = False,
    on_tick: OnTick | None = None,
) -> list[Result]:
    """Run one program, or several of which each reads what the one before writes; see `Shell.stream`.

    With `terminal` the last one's output goes to a terminal of 80 columns. Raises MissingProgramError, and CommandError
    after `timeout_s`.
    """
    running: list[_Program] = []
    with contextlib.ExitStack() as opened:
        try:
            with _interrupted_later():
                _start(running, programs, on_text, env, cwd, terminal, opened)
            with _watched(running):
                _read(running, timeout_s, on_tick)
        except BaseException:
            _end(running)
            raise
        return [each.ended() for each in running]


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block.

    Inside the block a program could have been started that is not recorded yet, and in the hooks that Python runs after
    a fork an exception is printed and lost.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    late: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: late.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if late:
        usual(*late[0])


def _start(
    running: list[_Program],
    programs: Sequence[tuple[str, ...]],
    on_text: OnText | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    terminal: bool,
    opened: contextlib.ExitStack,
) -> None:
    """Start the programs into `running`, each in a session of its own: Ctrl-C reaches the launcher alone."""
    import warnings

    import sh  # slow to load, and most commands run no program at all

    commands = []
    for program, *arguments in programs:
        try:
            commands.append((sh.Command(program), arguments))
        except sh.CommandNotFound:
            raise MissingProgramError(f"the program {program!r} was not found", hint="Put it on the PATH.") from None
    feed: Any = Path(os.devnull).open("rb")  # noqa: SIM115 - closed with the program that reads it
    for argv, (command, arguments) in zip(programs, commands, strict=True):
        last = argv is programs[-1]
        (out_fd, out), (err_fd, err) = _terminal() if terminal and last else _pipe(), _pipe()
        readers = [_Reader(err_fd, "err", on_text)]
        opened.callback(os.close, err_fd)
        with feed, out, err, warnings.catch_warnings():
            # sh's threads of the program before only wait: they hold no lock that the child could need before it execs.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            started = command(
                *arguments,
                _env=dict(os.environ if env is None else env),
                _cwd=str(cwd) if cwd else None,
                _in=feed,
                _out=out,
                _err=err,
                _bg=True,
                _bg_exc=False,
                _new_session=True,
            )
        if last:
            readers.append(_Reader(out_fd, "out", on_text))
            opened.callback(os.close, out_fd)
        else:
            feed = os.fdopen(out_fd, "rb", buffering=0)
        running.append(_Program(argv, started.process, readers))


def _pipe() -> tuple[int, Any]:
    reading, writing = os.pipe()
    return reading, os.fdopen(writing, "wb", buffering=0)


def _terminal() -> tuple[int, Any]:
    import fcntl
    import pty
    import struct
    import termios

    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return reading, os.fdopen(writing, "wb", buffering=0)


def _read(running: Sequence[_Program], timeout_s: float | None, on_tick: OnTick | None) -> None:
    """Hand over the output of the programs until they have ended."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for program in running:
            for reader in program.readers:
                selector.register(reader.fd, selectors.EVENT_READ, reader)
        while selector.get_map() or any(each.alive() for each in running):
            ready = selector.select(_TICK_S if selector.get_map() else _TICK_S / 10)
            for key, _ in ready:
                if not key.data.take():
                    selector.unregister(key.fd)
            # A program left in the background may keep the streams open for ever.
            if not ready and selector.get_map() and not any(each.alive() for each in running):
                return
            if on_tick is not None:
                on_tick(running[-1].process.pid)
            if deadline is not None and time.monotonic() > deadline:
                raise CommandError(f"{shlex.join(running[-1].argv)} did not end within {timeout_s:g} s")


def _end(running: Sequence[_Program]) -> None:
    """End the programs and all that they started; a second Ctrl-C does not wait for their own clean-up."""
    # The second Ctrl-C: what follows kills what still runs.
    with contextlib.suppress(KeyboardInterrupt):
        _signal(running, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for program in running:
            for reader in program.readers:
                os.set_blocking(reader.fd, False)
        while any(each.group_alive() for each in running) and time.monotonic() < deadline:
            _drain(running)
            time.sleep(0.02)
    _signal(running, signal.SIGKILL)
    for program in running:
        program.process.wait()


def _drain(running: Sequence[_Program]) -> None:
    """Discard output: a program that waits for a reader cannot end."""
    for program in running:
        for reader in program.readers:
            with contextlib.suppress(OSError):  # nothing to read now, or the terminal's other side is closed
                os.read(reader.fd, _PIECE)


def _signal(running: Sequence[_Program], number: signal.Signals) -> None:
    for program in running:
        # All of the group have ended, or what is left of it runs as another user.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program.process.pid, number)


@contextlib.contextmanager
def _watched(running: Sequence[_Program]) -> Iterator[None]:
    """Have the programs ended also if this process is killed meanwhile."""
    import subprocess

    groups = [str(each.process.pid) for each in running]
    argv = ["/bin/sh", "-c", _WATCHER, "watcher", *groups]
    quiet = subprocess.DEVNULL
    watcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
        watcher.communicate(b"over\n")
    except BaseException:
        # The caller ends the programs, in its order; the watcher is needed only if the launcher is killed before that.
        watcher.kill()
        watcher.communicate()
        raise
