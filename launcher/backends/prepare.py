"""The run directory: made under a temporary name and renamed, so that it is there whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import DiskError, RequestError
from launcher._util.ownership import require_trusted
from launcher.contract import files
from launcher.contract.paths import ARGV, CODE_SUMS, ENTRYPOINT, PLAN, RECIPE, SCRIPTS, RunPaths
from launcher.contract.process import ProcessIdentity
from launcher.planning.model import Plan
from launcher.planning.task import TaskPlan
from launcher.rundir import RunDirectory
from launcher.rundir.code_store import CodeStore
from launcher.rundir.registry import remember_root
from launcher.rundir.run_directory import write_atomically
from launcher.scripts import scripts

_PARTIAL = ".partial"
_SHARE = "Use --run-root DIR with a directory of yours; for one that a group shares see `launcher help scripts`."

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


def create(plan: Plan, texts: Mapping[str, str], *, like: RunPaths | None = None) -> Prepared:
    """Write a new run's directory, whole or not at all.

    `like` is a run of the same name and code that this process has just made: of many runs only the first looks at what
    they have in common.

    Raises RunExistsError where its id is taken, RequestError where another user could replace it, DiskError.

    Only what this process has made is removed again. What killed launchers of this machine have left is removed, too.
    """
    final = Path(plan.run_dir)
    partial: Path | None = None
    made: list[Path] = []
    try:
        _make_parents(final.parent, made, shared=plan.shared)
        for directory in (final.parent.parent, final.parent):
            require_trusted(directory, shared=plan.shared_run_root, hint=_SHARE)
        if plan.shared_run_root and final.parent in made:  # other users may have runs of this name
            final.parent.chmod(stat.S_IMODE(final.parent.parent.stat().st_mode))
        if like is None:
            _sweep(final.parent)
        partial = final.with_name(_partial_name(final.name, ProcessIdentity.of_this_process()))
        _make_directory(partial, shared=plan.shared)
        _write_records(partial, plan, texts)
        _take_code(RunPaths(partial), plan, like)
        # Slurm and the job only append to them.
        for log in _logs(RunPaths(partial), plan):
            write_atomically(log, "", mode=_file_mode(plan.shared), exact_mode=True)
        mine = partial.stat()
        partial.rename(final)
        if not os.path.samestat(mine, final.lstat()):
            raise RequestError("another user has replaced the run directory", where=str(final), hint=_SHARE)
    except (OSError, DiskError, RequestError) as error:
        _remove(partial, made)
        if isinstance(error, RequestError):
            raise
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY) and final.exists():
            raise RunExistsError("another run has this id", where=str(final)) from error
        raise _disk_error(error, final) from error
    if like is None:
        remember_root(final.parent.parent, os.environ)
    return Prepared(RunDirectory(final), tuple(made))


def _partial_name(run_id: str, maker: ProcessIdentity) -> str:
    """Return the name under which a process writes a run's directory; it identifies the process."""
    return f".{run_id}.{secrets.token_hex(6)}.{maker.short()}{_PARTIAL}"


def _sweep(directory: Path) -> None:
    """Remove what launchers have left that ended before their run's directory was whole."""
    for partial in directory.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # its launcher, or another one that sweeps, has just renamed or removed it
            if partial.is_symlink() or partial.stat().st_uid != os.geteuid():
                continue
            maker = ProcessIdentity.from_short(partial.name.removesuffix(_PARTIAL).rpartition(".")[2])
            if maker is not None and maker.has_ended():
                shutil.rmtree(partial, ignore_errors=True)


def renew(run: RunDirectory, plan: Plan, texts: Mapping[str, str]) -> None:
    """Write a resumed run's new plan and scripts; keep those of the attempt before in its directory."""
    attempt = run.latest_attempt()
    if attempt is None:
        raise RequestError("this run has no attempt that could be continued", where=str(run.path))
    for name in _RECORDS:
        source = run.path / name
        # What is there already is the attempt's own: a launcher was killed here, or its job never began.
        if source.exists() and not (attempt.path / name).exists():
            write_atomically(attempt.path / name, source.read_text(), mode=_file_mode(plan.shared), exact_mode=True)
    try:
        _renew_sums(run, plan)
    except OSError as error:
        raise _disk_error(error, run.path) from error
    _write_records(run.path, plan, texts)


def _write_records(directory: Path, plan: Plan, texts: Mapping[str, str]) -> None:
    mode = _file_mode(plan.shared)
    write_atomically(directory / PLAN, plan.to_json(), mode=mode, exact_mode=True)
    write_atomically(directory / ARGV, plan.argv_json(), mode=mode, exact_mode=True)
    for name, text in texts.items():
        write_atomically(directory / name, text, mode=_directory_mode(plan.shared), exact_mode=True)


def copy_code(directory: Path, plan: Plan | TaskPlan, *, shared: bool) -> None:
    """Write the snapshot of code for a call of the entrypoint. Raises OSError."""
    for target, source in plan.code:
        path = directory / target
        _make_parents(path.parent, [], shared=shared)
        shutil.copyfile(source, path)
        path.chmod(_file_mode(shared))


def _take_code(run: RunPaths, plan: Plan, like: RunPaths | None) -> None:
    """Give a run its snapshot of code, which shares its files with other runs where that is possible."""
    parents = {target.rpartition("/")[0] for target, _ in plan.code}
    for parent in sorted(parents):
        _make_parents(run.code / parent, [], shared=plan.shared)
    if like is not None:
        try:
            for target in (*(target for target, _ in plan.code), CODE_SUMS):
                os.link(f"{like.code}/{target}", f"{run.code}/{target}")
        except OSError:  # too many links, or none on this file system
            shutil.rmtree(run.code)
            _take_code(run, plan, None)
        return
    store, mode = CodeStore(run.path.parent.parent), _file_mode(plan.shared)
    sums = {target: store.place(Path(source).read_bytes(), run.code / target, mode) for target, source in plan.code}
    store.place(_sums_text(sums).encode(), run.code_sums, mode)
    if store.has_grown:
        store.sweep()


def _sums_text(sums: Mapping[str, str]) -> str:
    return json.dumps(sums, indent=1, sort_keys=True) + "\n"


def _renew_sums(run: RunPaths, plan: Plan) -> None:
    """Record the user's own files as they are in a resumed run: what has changed was permitted.

    Raises OSError; DiskError for a damaged record, since the sums of the launcher's files would be lost with it.
    """
    recorded = files.read_object(run.code_sums)
    if recorded is None and run.code_sums.exists():
        raise DiskError("the sums of the files of code/ are damaged", where=str(run.code_sums), hint="Start a new run.")
    recorded = recorded or {}
    own = {target for target, _ in plan.code if target.startswith(f"{RECIPE}/")}
    own |= {ENTRYPOINT} if plan.request.get("entrypoint") else set()
    others = {target: digest for target, digest in recorded.items() if not target.startswith(f"{RECIPE}/")}
    sums = {**others, **{target: hashlib.sha256((run.code / target).read_bytes()).hexdigest() for target in own}}
    if sums != recorded:
        # Another file takes its place: other runs may share this one.
        write_atomically(run.code_sums, _sums_text(sums), mode=_file_mode(plan.shared), exact_mode=True)


def rewrite(plan: Plan, texts: Mapping[str, str]) -> None:
    """Write the records of a run again that was prepared and never started: its plan is made anew. Raises DiskError."""
    _write_records(Path(plan.run_dir), plan, texts)


def discard(run: Path) -> None:
    """Remove a run that was never started. Where that is interrupted, no directory of its name is left."""
    removed = run.with_name(_partial_name(run.name, ProcessIdentity.of_this_process()))
    with contextlib.suppress(OSError):  # removed by another, or it stays and is written again
        run.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _logs(run: RunPaths, plan: Plan) -> tuple[Path, ...]:
    return (run.journal_file, run.sbatch_log) if plan.backend.slurm_step else (run.journal_file,)


def _file_mode(shared: bool) -> int:
    """Only the user reads a run's configuration and logs, unless `--shared` asks otherwise."""
    return 0o644 if shared else 0o600


def _directory_mode(shared: bool) -> int:
    return 0o755 if shared else 0o700


def _make_parents(directory: Path, made: list[Path], *, shared: bool) -> None:
    """Make a directory and those above it that are missing; add them to `made`, the innermost first."""
    if directory.is_dir():
        return
    _make_parents(directory.parent, made, shared=shared)
    # Another launcher was faster: then the directory is not this one's to remove.
    with contextlib.suppress(FileExistsError):
        _make_directory(directory, shared=shared)
        made.insert(0, directory)


def _make_directory(path: Path, *, shared: bool) -> None:
    """Make a directory with the run's permissions, whatever the umask; one in a group's directory is the group's."""
    path.mkdir(mode=0o700)
    inherited = path.stat().st_mode & stat.S_ISGID
    if shared or inherited:
        path.chmod(_directory_mode(shared) | inherited)


def _remove(directory: Path | None, made: Sequence[Path]) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
        CodeStore(directory.parent.parent).sweep(older_than_s=0)
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
