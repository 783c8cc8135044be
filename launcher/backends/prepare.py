"""The run directory: made under a temporary name and renamed, so that it is there whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher.contract import files
from launcher.contract.paths import ARGV, PLAN, SCRIPTS, RunPaths
from launcher.contract.process import ProcessIdentity
from launcher.planning.model import Plan
from launcher.planning.task import TaskPlan
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically
from launcher.scripts import scripts

_PARTIAL = ".partial"
_MAKER = "maker.json"
"""Which process writes the directory; removed when it is whole."""

_UNNAMED_S = 3600.0

_RECORDS = (PLAN, ARGV, *SCRIPTS)


class RunExistsError(DiskError):
    """The id of the run is taken: a new one has to be drawn."""


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
    """Write a new run's directory, whole or not at all. Raises RunExistsError where its id is taken, DiskError.

    Only what this process has made is removed again. What killed launchers of this machine have left is removed, too.
    """
    final = Path(plan.run_dir)
    partial: Path | None = None
    made: tuple[Path, ...] = ()
    with _umask(shared=plan.shared):
        try:
            made = _make_parents(final.parent)
            _sweep(final.parent)
            partial = _make_partial(final)
            _write_records(partial, plan, texts)
            copy_code(RunPaths(partial).code, plan)
            (partial / _MAKER).unlink()
            partial.rename(final)
        except (OSError, DiskError) as error:
            _remove(partial, made)
            if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY) and final.exists():
                raise RunExistsError("another run has this id", where=str(final)) from error
            raise _disk_error(error, final) from error
    return Prepared(RunDirectory(final), made)


def _make_partial(final: Path) -> Path:
    """Make the directory in which the run is written, with the identity of this process in it."""
    partial = final.with_name(f".{final.name}.{secrets.token_hex(6)}{_PARTIAL}")
    partial.mkdir()
    files.write_json(partial / _MAKER, ProcessIdentity.of_this_process().to_dict())
    return partial


def _sweep(directory: Path) -> None:
    """Remove what launchers have left that ended before their run's directory was whole."""
    for partial in directory.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # its launcher, or another one that sweeps, has just renamed or removed it
            if partial.is_symlink() or partial.stat().st_uid != os.geteuid():
                continue
            maker = ProcessIdentity.from_dict(files.read_object(partial / _MAKER) or {})
            unfinished_s = time.time() - partial.stat().st_mtime
            # Without an identity it was killed in its first moment, or is about to write it.
            if maker.has_ended() if maker else unfinished_s > _UNNAMED_S:
                shutil.rmtree(partial, ignore_errors=True)


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


def _remove(directory: Path | None, made: Sequence[Path]) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
    for path in made:
        with contextlib.suppress(OSError):  # another run may be there by now
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
