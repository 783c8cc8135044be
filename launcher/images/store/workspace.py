"""Workspaces: directories in which images are made before they are whole, one for each build, removed with it.

    <root>/.partial/<key>-<host>-<pid>-<random>/           the files of a build
    <root>/.partial/<key>-<host>-<pid>-<random>.owner      its owner; written before the directory, removed after it

A workspace is dead if its owner's process has ended, or, where that cannot be seen, if no live process holds the lock
of its key: then its builder, should it still run somewhere, has lost the lock and cannot publish anything.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher.images.store.lock import Lock, make_directory
from launcher.images.store.owner import Owner
from launcher.images.store.space import writing

_NAME = re.compile(r"([0-9a-f]+)-.*-[0-9]+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Workspace:
    """A workspace that lies in a store; `owner` is None where its file cannot be read."""

    path: Path
    key: str
    owner: Owner | None


def make(partial: Path, key: str, owner: Owner, mode: int) -> Path:
    """Make a workspace for a build of `key` (a hash, no dash in it). Raises DiskError."""
    path = partial / f"{key}-{owner.host}-{owner.pid}-{secrets.token_hex(4)}"
    with writing(partial, "make the workspace of the build"):
        make_directory(partial, mode)
        note = _note(path)
        try:
            note.write_text(json.dumps(owner.to_dict()))
            note.chmod(mode & 0o666)
            make_directory(path, mode)
        except OSError:
            note.unlink(missing_ok=True)
            raise
    return path


def all_in(partial: Path) -> list[Workspace]:
    """Return all workspaces, also those of which only the directory or the owner's file is left."""
    try:
        names = {path.name.removesuffix(".owner") for path in partial.iterdir()}
    except OSError:
        return []
    matches = [match for name in sorted(names) if (match := _NAME.fullmatch(name))]
    return [Workspace(partial / match[0], match[1], _owner(partial / match[0])) for match in matches]


def remove_dead(
    partial: Path,
    seen_from: Owner,
    lock_of: Callable[[str], Lock],
    *,
    held: str | None = None,
    watch: bool = False,
    dry_run: bool = False,
) -> list[tuple[Workspace, int]]:
    """Remove the workspaces whose builders are gone; return them with the bytes that they took.

    `held` is the key whose lock the caller holds. `watch` allows waiting for a heartbeat where nothing else shows
    whether a builder lives. What cannot be removed is left to the next call.
    """
    removed = []
    for space in all_in(partial):
        try:
            with _if_not_building(space, seen_from, lock_of, held=held, watch=watch) as dead:
                size = size_of(space.path) if dead else 0
                if dead and (dry_run or remove(space.path)):
                    removed.append((space, size))
        except LauncherError:  # the lock belongs to another user and is not readable
            continue
    return removed


@contextlib.contextmanager
def _if_not_building(
    space: Workspace, seen_from: Owner, lock_of: Callable[[str], Lock], *, held: str | None, watch: bool
) -> Iterator[bool]:
    gone = space.owner.has_ended(seen_from) if space.owner else None
    if gone is not None or space.key == held:
        yield gone is not False
        return
    if not lock_of(space.key).directory.is_dir():
        yield True
        return
    with lock_of(space.key).if_abandoned(watch=watch) as lock:
        yield lock is not None


def remove(path: Path) -> bool:
    """Remove a workspace with its owner's file; return whether nothing is left."""
    if not remove_tree(path):
        return False
    with contextlib.suppress(OSError):  # the result says whether it is gone
        _note(path).unlink(missing_ok=True)
    return not _note(path).exists()


def remove_tree(path: Path) -> bool:
    """Remove a directory with everything in it; return whether it is gone.

    File systems of images hold read-only directories (0555), in which a user other than root cannot remove anything.
    A process that still writes there may create new files meanwhile: hence more than one attempt.
    """
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return True
        _allow_all(path)
        for directory, below, _ in os.walk(path):
            for name in below:
                _allow_all(Path(directory) / name)
    return False


def size_of(path: Path) -> int:
    """Return the bytes on the disk of all files below `path`."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # removed since the listing
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH118 - not worth a Path each
    return total


def _allow_all(directory: Path) -> None:
    """Give the owner all rights on a directory."""
    with contextlib.suppress(OSError):  # the removal that follows reports what it cannot remove
        mode = directory.lstat().st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _owner(path: Path) -> Owner | None:
    """Return the owner of a workspace; None where no readable record names one."""
    try:
        return Owner.from_dict(json.loads(_note(path).read_text()))
    except (OSError, ValueError):
        return None
