r"""Mounts, and whether the kernel's file locks there keep out processes on other machines.

    local     processes of this machine alone reach the files, or those of NFS clients of this machine
    nfs       flock(2), "NFS details": since Linux 2.6.12 a lock on the whole file at the server. Not so with
              local_lock=flock or local_lock=all, and not with nolock (version 3 without lockd): nfs(5)
    lustre    mount.lustre(8): `flock` is coherent across clients; `localflock` is local to one; `noflock`, the default
              before Lustre 2.13, gives an error. The kernel shows `flock` or `localflock` among the options
    ceph      the kernel's client asks the metadata server for each lock (fs/ceph/locks.c)
    gfs2,     locks of the cluster unless mounted with `localflocks`: gfs2(5), ocfs2(7)
    ocfs2
    beegfs    local to each client unless tuneUseGlobalFileLocks is true in its configuration, which is not the default
              and cannot be seen in the mount options: counted as local to the client
    gpfs      flock was seen to be held by two nodes at once on IBM Storage Scale (issue 2351 of versitygw, issue 389
              of filelock): not trusted

Everything else (cifs, 9p, afs, fuse.*, weka, ...) is unknown and not trusted: a lease is slower to notice a dead
machine, and right everywhere.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs")
)


@dataclass(frozen=True)
class FileSystemMount:
    """One line of /proc/self/mountinfo, see proc_pid_mountinfo(5): mount point, file system, all its options."""

    point: Path
    kind: str
    options: frozenset[str]

    @property
    def is_local(self) -> bool:
        """Return whether the files are on a disk (or in the memory) of this machine."""
        return self.kind in _LOCAL

    @property
    def has_locks(self) -> bool:
        """Return whether flock(2) on a file there keeps out every process on every machine."""
        if self.kind in ("nfs", "nfs4"):
            return not self.options & {"nolock", "local_lock=flock", "local_lock=all"}
        if self.kind == "lustre":
            return "flock" in self.options and not self.options & {"localflock", "noflock"}
        if self.kind in ("gfs2", "ocfs2"):
            return "localflocks" not in self.options
        return self.is_local or self.kind == "ceph"


def mount_of(path: Path, mountinfo: str | None = None) -> FileSystemMount | None:
    """Return the mount that holds `path`; None if it is not known. `mountinfo` replaces the kernel's text."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return None
    place = path.resolve()
    found = [mount for line in mountinfo.splitlines() if (mount := _parse(line)) and place.is_relative_to(mount.point)]
    # The deepest mount point; of several mounts on one point the last one lies on top.
    return max(reversed(found), key=lambda mount: len(mount.point.parts), default=None)


def _parse(line: str) -> FileSystemMount | None:
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    if not dash or len(fields) < 6 or len(rest) < 3:
        return None
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return FileSystemMount(Path(point), rest[0], frozenset(fields[5].split(",")) | frozenset(rest[2].split(",")))
