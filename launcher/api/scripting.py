"""The Python API: `launcher.plan`, `run`, `submit` and `runs`, and the class `Run` (docs/how-to/python-api.md)."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from launcher.api.locate import find_run, find_run_root
from launcher.api.prepare_plan import PreparedPlan, prepare_plan
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.contract.events import Unit
from launcher.contract.files import read_lines
from launcher.rundir import RunDirectory

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from launcher.backends.wait import Interrupts
    from launcher.contract.records.result import AttemptResult
    from launcher.watch.status import RunStatus

_log = logging.getLogger("launcher")


class RunOptions(TypedDict, total=False):
    """The options of a run, called as on the command line and in a job file; None is as good as leaving one out."""

    mlm_source: str | None
    mcore: str | None
    mlm_arguments: Sequence[str] | None
    cluster: str | None
    nodes: int | None
    gpus_per_node: int | None
    time: str | int | None
    partition: str | None
    account: str | None
    qos: str | None
    nodelist: str | None
    exclude: str | None
    image: str | None
    runtime: str | None
    mounts: Sequence[str] | None
    ship: Sequence[str] | None
    scale_batch: bool | None
    env: Mapping[str, str | None] | Sequence[str] | None
    expand_env: Sequence[str] | None
    python: str | None
    name: str | None
    run_root: str | Path | None
    shared: bool | None
    resume: str | Path | None
    allow_changes: Sequence[str] | None
    attempts: int | None
    spares: int | None
    allow_checkpoint_load: bool | None
    keep_going: bool | None
    gates: Sequence[str] | None
    notify: str | None
    notify_url: str | None
    verify: Literal["full", "budget", "sizes"] | None
    hang_limit_s: float | None
    init: Literal["pretrained", "random"] | None
    nsys: bool | None
    profiler: str | None
    profile_steps: str | None
    profile_ranks: str | None
    nsys_trace: str | None
    nsys_args: Sequence[str] | None
    gpu_metrics: bool | None
    nsys_from: str | Path | None
    entrypoint: str | Path | None
    probe: bool | None
    check_config: bool | None
    check_on: Literal["here", "node"] | None
    sbatch: Mapping[str, bool | int | str] | None
    srun_args: Sequence[str] | None


@dataclass(frozen=True)
class Run:
    """One run: its directory, and what can be asked of it or done to it. Any process can hold one, also later."""

    directory: Path
    """The run directory, such as runs/NAME/RUN_ID."""

    @classmethod
    def find(cls, name: str, run_root: str | Path | None = None) -> "Run":
        """Return the run of a directory or a run id, or the newest of a name. Raises RequestError."""
        return cls(find_run(name, str(run_root) if run_root else None).path)

    @property
    def name(self) -> str:
        """Return the run's name."""
        return self.directory.parent.name

    @property
    def run_id(self) -> str:
        """Return the run's id, which begins with the time of its plan."""
        return self.directory.name

    def status(self) -> "RunStatus":
        """Ask the run directory and Slurm how the run is doing. Raises DiskError."""
        from launcher._util.shell import LocalShell
        from launcher.watch.status import status_of

        return status_of([self._run], LocalShell())[0][0]

    def wait(self, timeout_s: float | None = None, *, poll_s: float = 3.0) -> "RunStatus":
        """Wait until the run is over and return its last status. Slurm is asked every `poll_s` seconds.

        Raises TimeoutError if the run is not over after `timeout_s` seconds; the run goes on then.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (status := self.status()).phase.over:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.directory} is still {status.phase.value} after {timeout_s:g} s")
            time.sleep(poll_s if deadline is None else max(0.0, min(poll_s, deadline - time.monotonic())))
        return status

    def result(self) -> "AttemptResult | None":
        """Return result.json of the newest attempt: outcome, reason, iteration, loss; None while it is not over."""
        attempt = self._run.latest_attempt()
        return attempt.result if attempt else None

    def metrics(self) -> list[dict[str, Any]]:
        """Return what the newest attempt has recorded, a dictionary for each iteration (docs/reference/records.md)."""
        attempt = self._run.latest_attempt()
        return read_lines(attempt.metrics) if attempt else []

    def logs(
        self, *, rank: int | Literal["all", "last"] | None = None, attempt: int | None = None, last: int | None = None
    ) -> str:
        """Return the log of a rank: of a failed run by default the first failing rank's, else rank 0's with the losses.

        With `last` only so many lines of its end. Raises RequestError where there is none.
        """
        from launcher.watch.logs import print_logs

        text = StringIO()
        wanted = None if rank is None else str(rank)
        number = None if attempt is None else str(attempt)
        print_logs(self._run, text, rank=wanted, attempt=number, last=last)
        return text.getvalue()

    def cancel(self, *, save: bool = False) -> str:
        """End the run, or with `save` have its ranks write a checkpoint and stop. Return what was done, in words.

        Raises RequestError where that is impossible, SlurmError.
        """
        from launcher._util.shell import LocalShell
        from launcher.watch.cancel import cancel_run

        return cancel_run(self._run, LocalShell(), save=save)

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory.at(self.directory)


def plan(
    recipe: str | Path | None = None,
    *assignments: str,
    command: Literal["run", "submit"] | None = None,
    **options: "Unpack[RunOptions]",
) -> PreparedPlan:
    """Decide what `run` or `submit` would do. Writes nothing and starts nothing.

    `recipe` is a path, a `bridge:NAME` or a job file; `assignments` are its arguments and overrides, KEY=VALUE.
    Without `command` the plan is that of `run`, or of `submit` where `run` is impossible. Raises RequestError.
    """
    return prepare_plan(
        _request(recipe, assignments, options), command or "plan", check="if unknown", progress=_Logged()
    )


def submit(
    recipe: str | Path | None = None, *assignments: str, once: str | None = None, **options: "Unpack[RunOptions]"
) -> Run:
    """Submit a recipe as a batch job and return at once. Arguments as for `plan`.

    With `once`, any text, the run is submitted only if this user has not done so with the same key before; else that
    run is returned, whatever its state. Raises RequestError, also for a key of another request, and SlurmError.
    """
    request = _request(recipe, assignments, options)
    if once is not None:
        from launcher.api.once import submit_once

        return Run(submit_once(request, once, _Logged(), check="if possible").run.path)
    from launcher.api.submit import submit_new

    prepared = prepare_plan(request, "submit", check="if possible", progress=_Logged())
    return Run(submit_new(prepared, _Logged()).run.path)


def run(recipe: str | Path | None = None, *assignments: str, **options: "Unpack[RunOptions]") -> Run:
    """Run a recipe here, in this shell's allocation or on this machine, and return when it is over.

    How it ended is in `Run.result()`. Arguments as for `plan`. In the main thread the first Ctrl-C asks the ranks to
    save and stop, and the second ends them; KeyboardInterrupt is raised after that. Raises RequestError, CommandError.
    """
    from launcher.api.run import start_run, wait_for_run

    prepared = prepare_plan(_request(recipe, assignments, options), "run", progress=_Logged())
    with _interrupts() as counted:
        outcome = wait_for_run(start_run(prepared, _Logged()), counted, tick=_nothing, say=_log.info)
    if counted.count:
        raise KeyboardInterrupt
    return Run(outcome.run.path)


def runs(root: str | Path | None = None) -> list[Run]:
    """Return all runs below a run root, newest first; by default that of `run` and `submit` here.

    Raises ConfigError.
    """
    from launcher.rundir.finding import list_runs

    return [Run(one.path) for one in list_runs(find_run_root(str(root) if root else None))]


def _request(recipe: str | Path | None, assignments: Sequence[str], options: RunOptions) -> Request:
    stated: dict[str, Any] = {name: _plain(value) for name, value in options.items() if value is not None}
    if isinstance(environment := options.get("env"), Mapping):
        stated["env"] = tuple(name if value is None else f"{name}={value}" for name, value in environment.items())
    if recipe is not None:
        stated["recipe"] = str(recipe)
    if assignments:
        stated["assignments"] = tuple(assignments)
    return parse(Request, stated, where="the request")


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return tuple(value) if isinstance(value, list) else value


def _nothing() -> None:
    """Show no progress."""


@contextlib.contextmanager
def _interrupts() -> "Iterator[Interrupts]":
    """Count interrupts in place of dying from them; only the main thread can."""
    from launcher.backends.wait import Interrupts, interrupts

    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()
        return
    with interrupts() as counted:
        yield counted


class _Logged:
    """Pass what happens on to the logger `launcher`."""

    def info(self, text: str) -> None:
        """Log a sentence."""
        _log.info("%s", text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        _log.warning("%s", text)

    def stage(self, text: str) -> None:
        """Log a stage."""
        _log.info("%s", text)

    def line(self, text: str) -> None:
        """Log a program's line."""
        _log.debug("%s", text)

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """Leave numbers out."""
