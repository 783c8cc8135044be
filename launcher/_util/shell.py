"""The interface through which all external programs are run.

Commands are argument lists; nothing is ever handed to a shell. Functions that need a program take a `Shell`, so that a
test can pass another one. `run` is for short commands, `stream` for programs that take minutes.
"""

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from launcher._util.errors import CommandError, DiskError, MissingProgramError
from launcher._util.program import OnText as OnText
from launcher._util.program import OnTick as OnTick
from launcher._util.program import Result as Result

if TYPE_CHECKING:
    import subprocess


class Shell(Protocol):
    """Runs programs to their end."""

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,  # noqa: A002 - the name that subprocess and sh use
        check: bool = True,
        timeout_s: float | None = None,
    ) -> Result:
        """Run `argv` and return its result.

        `env` replaces the environment, `input` is its standard input. With `check`, a non-zero exit status raises
        CommandError; so do, always, a missing program and a time-out.
        """
        ...

    def stream(
        self,
        argv: Sequence[str],
        on_text: OnText | None = None,
        *,
        source: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout_s: float | None = None,
        terminal: bool = False,
        on_tick: OnTick | None = None,
    ) -> Result:
        """Run `argv` and hand over what it writes while it runs, in pieces as they come, carriage returns included.

        `source` is a second program, whose output is the standard input of `argv`; its messages go to `on_text`,
        too, and with `check` its failure is raised like that of `argv`. With `terminal` the standard output is a
        terminal, for programs that show their progress nowhere else. `on_tick` is called all the while, with the
        session of `argv`. The result holds the end of the output only (64 KiB of each stream). If this call ends early
        (Ctrl-C, an exception of `on_text` or `on_tick`, the time-out), it ends both programs and everything that they
        started: SIGTERM, a few seconds for them to clean up, SIGKILL. If this process dies, they are ended as well.
        Raises as `run` does.
        """
        ...


@dataclass
class LocalShell:
    """Runs programs on this machine: short commands with subprocess, long ones through the `sh` package.

    Loading `sh` takes longer than most short commands do, and it starts several threads for each command.
    """

    keep: tuple[int, ...] = ()
    """Descriptors that short commands inherit: a lock then lasts until they end, also where this process dies."""

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout_s: float | None = None,
    ) -> Result:
        """Run `argv`; see `Shell.run`."""
        with _started(argv, env, cwd, with_input=input is not None, keep=self.keep) as process:
            out, err = _output(process, argv, None if input is None else input.encode(), timeout_s)
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        result = Result(tuple(argv), status, out.decode(errors="replace"), err.decode(errors="replace"))
        return checked(result) if check else result

    def stream(
        self,
        argv: Sequence[str],
        on_text: OnText | None = None,
        *,
        source: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout_s: float | None = None,
        terminal: bool = False,
        on_tick: OnTick | None = None,
    ) -> Result:
        """Run `argv` and hand over its output; see `Shell.stream`."""
        from launcher._util import streaming  # here, not at the top: most commands start no long program

        programs = [tuple(each) for each in (source, argv) if each is not None]
        results = streaming.run(
            programs, on_text, env=env, cwd=cwd, timeout_s=timeout_s, terminal=terminal, on_tick=on_tick
        )
        if check:
            # A source that ended because its reader did is not the cause.
            for result in sorted(results, key=lambda each: each.status == _BROKEN_PIPE):
                checked(result)
        return results[-1]


def _started(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    *,
    with_input: bool,
    keep: Sequence[int],
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, so that Ctrl-C in the terminal does not end it halfway."""
    import shutil
    import subprocess

    program = shutil.which(argv[0])
    if program is None:
        raise MissingProgramError(f"the program {argv[0]!r} was not found", hint="Put it on the PATH.")
    try:
        return subprocess.Popen(
            [program, *argv[1:]],
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=keep,
        )
    except OSError as error:
        raise CommandError(f"{argv[0]} cannot be started: {error.strerror}") from error


def _output(
    process: "subprocess.Popen[bytes]", argv: Sequence[str], text: bytes | None, timeout_s: float | None
) -> tuple[bytes, bytes]:
    """Wait for a program and return what it wrote. Kills its group and raises CommandError after `timeout_s`."""
    import subprocess

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = _TICK_S if deadline is None else min(_TICK_S, deadline - time.monotonic())
        try:
            return process.communicate(text, max(left, 0))
        except subprocess.TimeoutExpired as waiting:
            text = None
            if process.poll() is not None:
                # A program that it left in the background may keep the pipes open for ever.
                return waiting.output or b"", waiting.stderr or b""
        if deadline is not None and time.monotonic() >= deadline:
            # It may have ended since the last look.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise CommandError(f"{shown(argv)} did not answer within {timeout_s:g} s")


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str | None = None,  # noqa: A002
    check: bool = True,
    timeout_s: float | None = None,
) -> Result:
    """Run a program on this machine; see `Shell.run`."""
    return LocalShell().run(argv, env=env, cwd=cwd, input=input, check=check, timeout_s=timeout_s)


def start(argv: Sequence[str], *, env: Mapping[str, str], log: Path, group: int = 0) -> "subprocess.Popen[bytes]":
    """Start a program that outlives the call, its output appended to `log` by the kernel, not through this process.

    It joins the process group `group`, by default a new one of its own: Ctrl-C in the terminal does not reach it.
    Raises CommandError if the program is missing, DiskError if the log cannot be opened.
    """
    import subprocess

    joined: Any = {"process_group": group}
    if sys.version_info < (3, 11):
        joined = {"preexec_fn": functools.partial(os.setpgid, 0, group)}
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                list(argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, **joined
            )
    except FileNotFoundError as error:
        if error.filename == str(log):
            raise DiskError(f"cannot write the log: {error.strerror}", where=str(log)) from error
        raise MissingProgramError(f"the program {argv[0]!r} was not found", hint="Put it on the PATH.") from None
    except OSError as error:
        raise DiskError(f"cannot start {argv[0]}: {error.strerror}", where=str(log)) from error


_BROKEN_PIPE = 128 + 13
_TICK_S = 1.0


def checked(result: Result) -> Result:
    """Return `result`, or raise CommandError with the program's message if its exit status is not 0."""
    if result.status == 0:
        return result
    words = result.stderr.strip() or result.stdout.strip() or "(no output)"
    raise CommandError(f"{shown(result.argv)} ended with status {result.status}: {words}")


def shown(argv: Sequence[str]) -> str:
    """Return a command as it is typed in a shell, for messages."""
    import shlex

    return shlex.join(argv)
