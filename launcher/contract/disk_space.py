"""How much a directory's file system can still take: free bytes, free files, and the user's quota where it has one.

Sources: statvfs(3); quota(1) of linuxquota with `-w` (a line each) and `-p` (a grace time that is never empty); `lfs
quota -q` of Lustre. Programs that are missing, fail or take long leave the quota unknown.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

_PROGRAM_LIMIT_S = 3.0
_NUMBER = re.compile(r"\[?(\d+)\]?\*?")


class Quota(NamedTuple):
    """A user's quota. Limits are the hard ones, or the soft ones where there are no others; None without a limit."""

    used_bytes: int
    limit_bytes: Optional[int]
    used_files: int
    limit_files: Optional[int]
    hard_bytes: Optional[int] = None
    """The hard limit of bytes: a soft one may be exceeded for a while."""


class DiskSpace(NamedTuple):
    """What a file system can take. None: unknown, or no limit."""

    directory: str
    """The directory that was asked about, or the nearest one above it that exists."""
    free_bytes: int
    total_bytes: int
    free_files: Optional[int]
    quota: Optional[Quota]

    @property
    def available_bytes(self) -> int:
        """Return what this user can still write."""
        quota = self.quota
        if quota is None or quota.limit_bytes is None:
            return self.free_bytes
        return min(self.free_bytes, max(0, quota.limit_bytes - quota.used_bytes))

    @property
    def available_files(self) -> Optional[int]:
        """Return how many files this user can still make."""
        quota = self.quota
        of_quota = None if quota is None or quota.limit_files is None else max(0, quota.limit_files - quota.used_files)
        return min((count for count in (self.free_files, of_quota) if count is not None), default=None)

    @property
    def most_bytes(self) -> int:
        """Return what this user could write if nothing else were there."""
        limit = self.quota.hard_bytes if self.quota else None
        return self.total_bytes if limit is None else min(limit, self.total_bytes)


def look(directory: Path) -> Optional[DiskSpace]:
    """Return the space in `directory`, which need not exist yet; None where its file system cannot be seen here."""
    found = next((path for path in (directory, *directory.parents) if path.is_dir()), None)
    # A path of which not even the first part exists lies on a file system that is mounted elsewhere.
    if found is None or (found == Path(found.anchor) and directory != found):
        return None
    try:
        facts = os.statvfs(found)
    except OSError:
        return None
    return DiskSpace(
        directory=str(found),
        free_bytes=facts.f_bavail * facts.f_frsize,
        total_bytes=facts.f_blocks * facts.f_frsize,
        # File systems that make inodes as they need them say 0 of 0.
        free_files=facts.f_favail if facts.f_files else None,
        quota=_quota(found),
    )


def parse_quota(text: str, sources: Sequence[str]) -> Optional[Quota]:
    """Return the quota in the output of `quota -w -p` for the file system that one of `sources` names.

    A line has: file system, blocks of 1 KiB, quota, limit, grace, files, quota, limit, grace. An asterisk marks what is
    over the quota.
    """
    for line in text.splitlines():
        name, *rest = line.split()
        if name in sources and (numbers := _numbers(rest)) is not None:
            return numbers
    return None


def parse_lfs_quota(text: str) -> Optional[Quota]:
    """Return the quota in the output of `lfs quota -q`; a long path has a line of its own. KiB; no limit is 0."""
    words = text.split()
    return _numbers(words[1:]) if words else None


def _numbers(words: Sequence[str]) -> Optional[Quota]:
    fields = [_NUMBER.fullmatch(word) for word in words[:8]]
    if len(fields) < 8 or not all(fields[index] for index in (0, 1, 2, 4, 5, 6)):
        return None
    used, soft, hard, used_files, soft_files, hard_files = (
        int(match[1]) for index in (0, 1, 2, 4, 5, 6) if (match := fields[index])
    )
    limit, limit_files = hard or soft, hard_files or soft_files
    return Quota(
        used_bytes=used * 1024,
        limit_bytes=limit * 1024 if limit else None,
        used_files=used_files,
        limit_files=limit_files or None,
        hard_bytes=hard * 1024 if hard else None,
    )


def _quota(directory: Path) -> Optional[Quota]:
    import shutil

    mount = _mount_of(directory)
    if mount is None:
        return None
    point, kind, source = mount
    if kind == "lustre" and shutil.which("lfs"):
        return parse_lfs_quota(_output(["lfs", "quota", "-q", "-u", str(os.getuid()), point]))
    if kind != "lustre" and shutil.which("quota"):
        return parse_quota(_output(["quota", "-w", "-p"]), (source, point))
    return None


def _output(command: Sequence[str]) -> str:
    """Return what a program prints; nothing where it cannot be started or does not end."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROGRAM_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # quota(1) has status 1 where something is over its quota.
    return done.stdout if done.returncode in (0, 1) else ""


def _mount_of(directory: Path) -> Optional[tuple[str, str, str]]:
    """Return mount point, type and source of a directory's file system, from proc_pid_mountinfo(5)."""
    try:
        resolved = directory.resolve()
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) < 5 or len(more) < 2:
            continue
        point = fields[4].encode().decode("unicode_escape")
        # The last of several mounts on one point is the one that is seen.
        if resolved.is_relative_to(point) and (found is None or len(point) >= len(found[0])):
            found = (point, more[0], more[1])
    return found
