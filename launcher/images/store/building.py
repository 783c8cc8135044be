"""Builds of images in a store: one builder of a key at a time, and how a finished image gets its place.

The order of the steps is explained in store.py.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher._util.errors import DiskError, ImageError, LauncherError
from launcher._util.older_python import sha256_of
from launcher.images.manifest import Manifest, read_manifest, write_manifest
from launcher.images.store import trash, workspace
from launcher.images.store.lock import HeldLock, OnWait, make_directory
from launcher.images.store.names import check_free, checked_name, link_to
from launcher.images.store.space import disk_error, require, writing
from launcher.images.store.store import Store, StoredImage

_CHUNK = 8 << 20
# link(2): another file system or mount (EXDEV); none there (EPERM), or not to files of others (EPERM, EACCES).
_OTHER_DISK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class LastBuild:
    """The image that the last build of a key made; `token` differs between two builds of the same content."""

    digest: str
    token: str


@dataclass(frozen=True)
class Building:
    """A build in progress: `workspace` is an empty directory on the store's file system.

    `finished` is the image if another builder of the same key completed it while this one waited: then there is
    nothing to do.
    """

    workspace: Path
    finished: StoredImage | None
    store: Store
    key: str
    lock: HeldLock
    on_wait: OnWait | None

    def add(self, file: Path, manifest: Manifest, names: Sequence[str]) -> StoredImage:
        """Put `file` into the store under its digest, with its manifest (digest and size are filled in) and names.

        The file is moved; one on another file system is copied and left where it is. The same content a second time
        stays one file with its first manifest. Raises ImageError for an impossible name or one that belongs to a file
        that the store did not make, DiskError, LeaseLostError.
        """
        links = self._links(names)
        with writing(self.store.images, "make the store"):
            make_directory(self.store.images, self.store.mode)
        return self._stored(_put(self, file, manifest, links))

    def add_names(self, entry: StoredImage, names: Sequence[str]) -> StoredImage:
        """Let further names point to an image of the store, as the result of this build; nothing is read or moved.

        Raises ImageError for an impossible or taken name and for an image that is gone, DiskError, LeaseLostError.
        """
        _name(self, entry.path, self._links(names))
        return self._stored(entry.path)

    def _links(self, names: Sequence[str]) -> list[Path]:
        links = [self.store.root / checked_name(name) for name in dict.fromkeys(names)]
        for link in links:
            check_free(link)
        return links

    def _stored(self, path: Path) -> StoredImage:
        entry = self.store.by_digest(path.stem)
        if entry is None:
            raise ImageError("the image was removed from the store while it was added", where=str(path))
        return entry


@contextlib.contextmanager
def start_building(store: Store, key: str, *, on_wait: OnWait | None = None) -> Iterator[Building]:
    """Yield a workspace for making the image of `key` (what it is made from: any text), one builder at a time.

    The workspace is removed at the end, whatever happens. Raises DiskError.
    """
    hashed = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:24]
    with writing(store.root, "make the store"):
        store.root.mkdir(parents=True, exist_ok=True)
    before = _last_build(store, hashed)
    with store.lock(hashed).held(on_wait) as lock:
        after = _last_build(store, hashed)
        made = store.by_digest(after.digest) if after and after != before else None
        workspace.remove_dead(store.partial, store.me, store.lock, held=hashed)
        space = workspace.make(store.partial, hashed, store.me, store.mode)
        try:
            yield Building(space, made if made and not made.problem else None, store, hashed, lock, on_wait)
        finally:
            workspace.remove(space)


def _put(building: Building, file: Path, manifest: Manifest, links: Sequence[Path]) -> Path:
    """Publish `file` under its digest and these names; return its final path. See `Building.add`."""
    store = building.store
    ready, digest, original = _into(building.workspace, file)
    final = store.images / f"{digest}.sqsh"
    text = manifest.model_copy(update={"digest": f"sha256:{digest}", "size_bytes": ready.stat().st_size})
    beside = building.workspace / f".{digest}.json"
    try:
        write_manifest(beside, text)
    except DiskError as error:
        if isinstance(error.__cause__, OSError):  # with the free bytes in it
            raise disk_error(error.__cause__, beside, "write the manifest") from error
        raise
    with writing(store.images, "publish the image"):
        # Read-only for everyone; the permissions of the directories decide who can read.
        ready.chmod(0o444)
        beside.chmod(0o444)
        _sync(ready)
        with _publishing(building):
            _place(ready, beside, final)
            _finish(building, digest, links)
        if original:
            # The image has its place: this completes the move.
            original.unlink(missing_ok=True)
    return final


def _name(building: Building, image: Path, links: Sequence[Path]) -> None:
    """Let names point to an image that the store has. See `Building.add_names`."""
    with writing(building.store.root, "make the names of the image"), _publishing(building):
        if not image.exists():
            raise ImageError("the image is no longer in the store", where=str(image), hint="Run the command again.")
        with contextlib.suppress(PermissionError):  # another user's image; gc then counts its age from the build
            os.utime(image.with_suffix(".json"))
        _finish(building, image.stem, links)


def _last_build(store: Store, key: str) -> LastBuild | None:
    """Return the image that the last build of the key made, if any."""
    try:
        value = json.loads(_result_file(store, key).read_text())
        return LastBuild(str(value["digest"]), str(value["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _publishing(building: Building) -> Iterator[None]:
    """Let no other process publish or remove anything during the block; check that the build's own lock is held."""
    with building.store.lock("store").held(building.on_wait):
        # Everything slow is done: what follows takes far less time than others wait before they take over.
        building.lock.check()
        trash.put_back(building.store)
        yield


def _finish(building: Building, digest: str, links: Sequence[Path]) -> None:
    """Write the names, and the result for processes that wait."""
    for link in links:
        _point(link, digest, building.workspace)
    _sync(building.store.root)
    _note_result(building.store, building.key, LastBuild(digest, secrets.token_hex(8)), building.workspace)


def _into(workspace: Path, file: Path) -> tuple[Path, str, Path | None]:
    """Return the file in the workspace, its SHA-256, and the file to remove once it is published.

    A file from elsewhere gets a second name in the workspace, so that it is not lost if the build fails.
    """
    inside, original = file, None
    if not file.is_relative_to(workspace):
        inside, original = workspace / f".{secrets.token_hex(8)}.sqsh", file.resolve()
        try:
            inside.hardlink_to(original)
        except OSError as error:
            if error.errno not in _OTHER_DISK:
                raise disk_error(error, file, "take the image into the store") from error
            return inside, _copy(file, inside), None
    with writing(inside, "read the image"), inside.open("rb") as source:
        return inside, sha256_of(source), original


def _copy(file: Path, target: Path) -> str:
    """Copy the file, return its SHA-256."""
    digest = hashlib.sha256()
    with writing(file, "read the image"):
        size = file.stat().st_size
    require(target.parent, size, "the image")
    with writing(target, "copy the image", needed=size), file.open("rb") as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def _place(ready: Path, manifest: Path, final: Path) -> None:
    """Rename both to their place; an image that is there stays, since jobs may have it open (ESTALE over NFS)."""
    beside = final.with_suffix(".json")
    with contextlib.suppress(FileNotFoundError):  # nothing is there yet
        if final.stat().st_size == ready.stat().st_size:
            if not _is_good(final):
                manifest.rename(beside)
            with contextlib.suppress(PermissionError):
                # Its age, as gc counts it, begins anew. The files may be another user's.
                os.utime(beside)
            ready.unlink()
            return
    manifest.rename(beside)
    _sync(final.parent)
    ready.rename(final)
    _sync(final.parent)


def _is_good(image: Path) -> bool:
    """Whether there is a manifest that can be read."""
    try:
        return read_manifest(image) is not None
    except LauncherError:
        return False


def _point(link: Path, digest: str, workspace: Path) -> None:
    """Let a name point to the image: at every moment it is the old link or the new one."""
    check_free(link)
    temporary = workspace / f".{secrets.token_hex(8)}"
    temporary.symlink_to(link_to(digest))
    temporary.rename(link)


def _note_result(store: Store, key: str, result: LastBuild, workspace: Path) -> None:
    temporary = workspace / f".{secrets.token_hex(8)}"
    temporary.write_text(json.dumps(asdict(result)))
    temporary.chmod(store.mode & 0o666)
    temporary.rename(_result_file(store, key))


def _result_file(store: Store, key: str) -> Path:
    return store.root / ".locks" / f"{key}.result"


def _sync(path: Path) -> None:
    """Write what the kernel holds of a file, or of the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
