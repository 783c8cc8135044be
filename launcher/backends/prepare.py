"""The run directory: made under a temporary name and renamed, so that it is there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher.contract.paths import ARGV, PLAN, SCRIPTS, RunPaths
from launcher.planning.model import Plan
from launcher.planning.task import TaskPlan
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically
from launcher.scripts import scripts

_RECORDS = (PLAN, ARGV, *SCRIPTS)


@dataclass(frozen=True)
class Prepared:
    """A run's directory, ready to start; `made` are the directories above it that `prepare` created."""

    run: RunDirectory
    made: tuple[Path, ...] = ()
    new: bool = True

    def rollback(self) -> None:
        """Remove a new run that was not started. A resumed run stays as it is."""
        if self.new:
            _remove(self.run.path, self.made)


def prepare(plan: Plan, resumed: RunDirectory | None) -> Prepared:
    """Write the directory of a plan: a new one, or a new plan into a resumed run's. Raises DiskError."""
    texts = scripts(plan)
    if resumed is None:
        return create(plan, texts)
    renew(resumed, plan, texts)
    return Prepared(resumed, new=False)


def create(plan: Plan, texts: Mapping[str, str]) -> Prepared:
    """Write a new run's directory, whole or not at all. Raises DiskError."""
    final = Path(plan.run_dir)
    partial = final.with_name(f".{final.name}.partial")
    made: tuple[Path, ...] = ()
    with _umask(shared=plan.shared):
        try:
            made = _make_parents(final.parent)
            partial.mkdir()
            _write_records(partial, plan, texts)
            copy_code(RunPaths(partial).code, plan)
            partial.rename(final)
        except (OSError, DiskError) as error:
            _remove(partial, made)
            raise _disk_error(error, final) from error
    return Prepared(RunDirectory(final), made)


def renew(run: RunDirectory, plan: Plan, texts: Mapping[str, str]) -> None:
    """Write a resumed run's new plan and scripts; keep those of the attempt before in its directory."""
    attempt = run.latest_attempt()
    if attempt is None:
        raise RequestError("this run has no attempt that could be continued", where=str(run.path))
    with _umask(shared=plan.shared):
        for name in _RECORDS:
            source = run.path / name
            if source.exists():
                write_atomically(attempt.path / name, source.read_text())
        _write_records(run.path, plan, texts)


def _write_records(directory: Path, plan: Plan, texts: Mapping[str, str]) -> None:
    write_atomically(directory / PLAN, plan.to_json())
    write_atomically(directory / ARGV, plan.argv_json())
    for name, text in texts.items():
        write_atomically(directory / name, text, mode=0o777)


def copy_code(directory: Path, plan: Plan | TaskPlan) -> None:
    """Write the snapshot of code that the run executes. Raises OSError."""
    for target, source in plan.code:
        path = directory / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)


def _make_parents(directory: Path) -> tuple[Path, ...]:
    missing = tuple(path for path in (directory, *directory.parents) if not path.exists())
    directory.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(directory: Path, made: Sequence[Path]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for path in made:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _disk_error(error: OSError | DiskError, final: Path) -> DiskError:
    reason = error.__cause__ if isinstance(error, DiskError) else error
    code = reason.errno if isinstance(reason, OSError) else None
    said = (reason.strerror if isinstance(reason, OSError) else None) or str(error)
    hints = {
        errno.ENOSPC: "Free some space there, or choose another directory: --run-root DIR.",
        errno.EDQUOT: "Your quota there is used up: free some space, or choose another directory: --run-root DIR.",
        errno.EACCES: "Choose a directory that you can write to: --run-root DIR.",
        errno.EROFS: "Choose a directory that you can write to: --run-root DIR.",
    }
    hint = hints.get(code or 0, "Choose another directory: --run-root DIR.")
    return DiskError(f"the run directory cannot be written: {said}", where=str(final), hint=hint)


@contextmanager
def _umask(*, shared: bool) -> Iterator[None]:
    """Set the umask: only the user reads a run directory's configuration and logs, unless `--shared` asks otherwise."""
    before = os.umask(0o022 if shared else 0o077)
    try:
        yield
    finally:
        os.umask(before)
