"""A shell that starts nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher._util.errors import MissingProgramError
from launcher._util.shell import OnText, OnTick, Result, checked


@dataclass
class Recorder:
    """Answers by program, and records command lines and environments.

    `answers` maps a program's name to a result, or to a function from the arguments to one; any other program is
    not found.
    """

    answers: Mapping[str, Result | Callable[[Sequence[str]], Result]] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    environments: list[Mapping[str, str] | None] = field(default_factory=list)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,  # noqa: ARG002
        input: str | None = None,  # noqa: A002, ARG002
        check: bool = True,
        timeout_s: float | None = None,  # noqa: ARG002
    ) -> Result:
        """Answer; see `Shell.run`."""
        self.asked.append(tuple(argv))
        self.environments.append(env)
        answer = self.answers.get(argv[0])
        if answer is None:
            raise MissingProgramError(f"the program {argv[0]!r} was not found")
        result = answer if isinstance(answer, Result) else answer(argv)
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
        terminal: bool = False,  # noqa: ARG002
        on_tick: OnTick | None = None,  # noqa: ARG002
    ) -> Result:
        """Answer; see `Shell.stream`. The source is asked first."""
        if source is not None:
            self.run(source, env=env, cwd=cwd, check=check, timeout_s=timeout_s)
        result = self.run(argv, env=env, cwd=cwd, check=False, timeout_s=timeout_s)
        if on_text:
            on_text("out", result.stdout)
            on_text("err", result.stderr)
        return checked(result) if check else result
