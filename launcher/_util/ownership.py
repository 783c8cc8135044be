"""Whether a directory is one in which another user cannot put things in place of this user's."""

import contextlib
import os
import stat
from pathlib import Path

from launcher._util.errors import RequestError


def require_trusted(directory: Path, *, shared: bool, hint: str) -> None:
    """Refuse a directory, or a link to one, that belongs to somebody else; root's is taken.

    With `shared` a directory that is setgid for a group of this user is taken as well: the group's users trust each
    other. Raises RequestError with `hint`; OSError where there is no such directory.
    """
    link = directory.lstat()
    if stat.S_ISLNK(link.st_mode) and not _is_own(link.st_uid, directory.parent):
        raise _refused(directory, link, "a link", hint)
    found = directory.stat()
    if _is_own(found.st_uid, directory) or (shared and _is_of_a_group(found)):
        return
    raise _refused(directory, found, "a directory", hint)


def is_shared(directory: Path) -> bool:
    """Return whether a directory is shared with a group of this user: setgid, as `chmod 2775` makes it."""
    try:
        return _is_of_a_group(directory.stat())
    except OSError:
        return False


def is_own(path: Path) -> bool:
    """Return whether what is at a path is this user's: by its owner, or by the owner that the server gives to all."""
    owner = path.lstat().st_uid
    return owner == os.geteuid() or owner == _uid_given_by(path.parent)


def _is_of_a_group(found: os.stat_result) -> bool:
    return bool(found.st_mode & stat.S_ISGID) and found.st_gid in (os.getegid(), *os.getgroups())


def _is_own(uid: int, directory: Path) -> bool:
    return uid in (0, os.geteuid()) or uid == _uid_given_by(directory)


def _uid_given_by(directory: Path) -> int | None:
    """Return whom the file system names as the owner of what this user makes there; None where nothing can be made.

    A server may give one owner to all files, as NFS with all_squash or an access point of EFS does.
    """
    # A directory that nothing can be made in gives no owner.
    with contextlib.suppress(OSError):
        probe = directory / f".owner-{os.getpid()}-{os.urandom(4).hex()}"
        probe.mkdir(mode=0o700)
        try:
            return probe.stat().st_uid
        finally:
            probe.rmdir()
    return None


def _refused(path: Path, found: os.stat_result, what: str, hint: str) -> RequestError:
    import pwd

    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    return RequestError(
        f"{what} of another user ({owner}) is in this place, who could put other files there",
        where=str(path),
        hint=hint,
    )
