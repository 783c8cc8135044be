"""The one seam through which external programs are run.

Commands are argument lists; nothing is ever handed to a shell. Functions that need a program take a `Shell`, so that a
test can put a `Recorder` in its place.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from launcher.errors import CommandError, DiskError, MissingProgram

if TYPE_CHECKING:
    import subprocess


@dataclass(frozen=True)
class Result:
    """What a program answered; `status` is its exit status, 128+N where signal N ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Shell(Protocol):
    """Whatever can run a program to its end."""

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


class LocalShell:
    """Runs programs on this machine, over the `sh` package."""

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
        """See `Shell.run`."""
        import sh  # slow to load, and most commands run no program at all

        program, *arguments = argv
        try:
            command: Any = sh.Command(program)
            done = command(
                *arguments,
                _env=dict(os.environ if env is None else env),
                _cwd=str(cwd) if cwd else None,
                _in=input,
                _timeout=timeout_s,
                _return_cmd=True,
                _ok_code=list(range(256)),
                _tty_out=False,
                _encoding="utf-8",
                _decode_errors="replace",
            )
            status, out, err = done.exit_code, done.stdout, done.stderr
        except sh.CommandNotFound:
            raise MissingProgram(f"the program {program!r} was not found", hint="Put it on the PATH.") from None
        except sh.TimeoutException:
            raise CommandError(f"{_shown(argv)} did not answer within {timeout_s:g} s") from None
        except sh.SignalException as error:
            status, out, err = 128 + abs(int(error.exit_code)), error.stdout, error.stderr
        result = Result(tuple(argv), int(status), out.decode(errors="replace"), err.decode(errors="replace"))
        return checked(result) if check else result


@dataclass
class Recorder:
    """A shell for tests: answers by program, remembers what was asked.

    `answers` maps a program's name to a result, or to a function from the arguments to one; any other program is
    not found.
    """

    answers: Mapping[str, Result | Callable[[Sequence[str]], Result]] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        cwd: Path | None = None,  # noqa: ARG002
        input: str | None = None,  # noqa: A002, ARG002
        check: bool = True,
        timeout_s: float | None = None,  # noqa: ARG002
    ) -> Result:
        """See `Shell.run`."""
        self.asked.append(tuple(argv))
        answer = self.answers.get(argv[0])
        if answer is None:
            raise MissingProgram(f"the program {argv[0]!r} was not found")
        result = answer if isinstance(answer, Result) else answer(argv)
        return checked(result) if check else result


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

    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                list(argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=group
            )
    except FileNotFoundError as error:
        if error.filename == str(log):
            raise DiskError(f"cannot write the log: {error.strerror}", where=str(log)) from error
        raise MissingProgram(f"the program {argv[0]!r} was not found", hint="Put it on the PATH.") from None
    except OSError as error:
        raise DiskError(f"cannot start {argv[0]}: {error.strerror}", where=str(log)) from error


def checked(result: Result) -> Result:
    """Return `result`, or raise CommandError with the program's own words if its exit status is not 0."""
    if result.status == 0:
        return result
    words = result.stderr.strip() or result.stdout.strip() or "(it said nothing)"
    raise CommandError(f"{_shown(result.argv)} ended with status {result.status}: {words}")


def _shown(argv: Sequence[str]) -> str:
    import shlex

    return shlex.join(argv)
