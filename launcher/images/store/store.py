"""The image store: a directory of images named by their content, with readable names that point to them.

    <root>/sha256/<hex>.sqsh      an image, named by the SHA-256 of its bytes: read-only, never changed
    <root>/sha256/<hex>.json      its manifest
    <root>/<name>.sqsh            a symbolic link to sha256/<hex>.sqsh
    <root>/uses/<hex>/            who uses it (uses.py)
    <root>/.partial/              builds that are not finished (workspace.py)
    <root>/.locks/                locks (lock.py), and what the last build of a key made
    <root>/.trash/                what gc is about to delete (collect.py)

A name that moves to another image leaves the older one where it is: a queued run names its image by content.

The store stays whole, whichever process is killed at any moment, because of this order:

1. The workspace's owner is recorded, then the workspace is made. Everything unfinished lies in a workspace, where no
   command looks for images; the next builder and gc remove those of dead owners.
2. The image's bytes are on the disk (fsync) before it leaves the workspace. So is the manifest.
3. The lock is proved to be still held, then the store's own lock is taken: builders of different keys and gc publish
   and remove one after the other.
4. The manifest is renamed to its place, the directory is synced, then the image is renamed to its place and the
   directory is synced again. An image is there from the second rename on, with its manifest. A manifest without image
   does not count: the next build replaces it, gc removes it.
5. Only then names: each is a symbolic link, created in the workspace and renamed over the old one, so that it always
   points to one of the two images. The root is synced.
6. Last, the result of the key is recorded for processes that wait. Without it they build again, which gives the same
   content or a newer one.

A name is made or replaced only if it is a link into the store: files of others in the root are never touched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher._util.errors import ImageError, LauncherError
from launcher.images.manifest import Manifest, read_manifest
from launcher.images.reference import Reference
from launcher.images.store.lock import LeaseTiming, Lock
from launcher.images.store.names import DIGITS, SUFFIX, listed, meant_by, target_of
from launcher.images.store.owner import Owner
from launcher.images.store.space import writing

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredImage:
    """An image of the store.

    `digest` is `sha256:<hex>`; None for a plain file in the root that the store did not make. `manifest` is None where
    there is none, or a broken one: `problem` says so.
    """

    digest: str | None
    path: Path
    manifest: Manifest | None
    names: tuple[str, ...]
    size_bytes: int
    added: float
    """Seconds since the epoch: when it came into the store, last."""
    problem: str | None = None


@dataclass(frozen=True)
class Store:
    """The images in one directory, which may be shared by many users and machines.

    New directories get the permissions of the root: `chmod 2775` on it makes a store for a group. `owner`,
    `kernel_locks` and `timing` are those of its locks, see `Lock`.
    """

    root: Path
    owner: Owner | None = None
    kernel_locks: bool | None = None
    timing: LeaseTiming = field(default=LeaseTiming())

    @property
    def images(self) -> Path:
        """Return the directory of the content-named files."""
        return self.root / "sha256"

    @property
    def partial(self) -> Path:
        """Return the directory of the workspaces."""
        return self.root / ".partial"

    @property
    def me(self) -> Owner:
        """Return the process that acts on this store."""
        return self.owner or Owner.of_this_process()

    @property
    def mode(self) -> int:
        """Return the permissions of new directories. Raises DiskError without a root."""
        with writing(self.root, "look at the store"):
            return self.root.stat().st_mode & 0o7777

    def image_path(self, digest: str) -> Path:
        """Return where the image of this digest (with or without `sha256:`) is, or would be. Raises ImageError."""
        text = digest.removeprefix("sha256:")
        if not _HEX.fullmatch(text):
            raise ImageError(f"{digest!r} is not a SHA-256 digest", hint="The form is sha256:<64 hexadecimal digits>.")
        return self.images / f"{text}{SUFFIX}"

    def names(self) -> dict[str, str]:
        """Return the digest (hexadecimal) that each name in the store points to."""
        found = {name: target_of(self.root / name) for name in listed(self.root)}
        return {name.removesuffix(SUFFIX): target for name, target in found.items() if target}

    def entries(self) -> list[StoredImage]:
        """Return all images, by digest; images that another process removes meanwhile are left out."""
        names = self.names()
        paths = [self.images / name for name in listed(self.images) if _HEX.fullmatch(name.removesuffix(SUFFIX))]
        return [entry for path in paths if (entry := self._entry(path, names))]

    def plain_files(self) -> list[StoredImage]:
        """Return the images in the root that others put there (CloudAI, a user): without digest, never removed."""
        paths = [self.root / name for name in listed(self.root) if target_of(self.root / name) is None]
        return [entry for path in paths if path.is_file() and (entry := _plain(path))]

    def find(self, text: str) -> StoredImage | None:
        """Return the image that `text` names, None if there is none.

        A name with or without `.sqsh`, a reference to a registry whose image was imported, a digest, or at least 8
        digits with which only one digest begins. Raises ImageError for an ambiguous one and for a broken name.
        """
        for name in meant_by(text):
            path = self.root / name
            if (digest := target_of(path)) is not None:
                entry = self._entry(self.image_path(digest), self.names())
                if entry is None:
                    raise _dangling(path, digest)
                return entry
            if path.is_file() and (entry := _plain(path)):
                return entry
        return self.by_digest(text.removeprefix("sha256:"))

    def lock(self, name: str) -> Lock:
        """Return the lock of this name: of a key's hash, or `store` for changes of published images."""
        return Lock(self.root / ".locks" / name, self.owner, self.kernel_locks, self.timing, self.mode)

    def _entry(self, path: Path, names: dict[str, str]) -> StoredImage | None:
        digest = path.stem
        mine = tuple(sorted(name for name, target in names.items() if target == digest))
        problem = None
        try:
            manifest = read_manifest(path)
            problem = None if manifest else "it has no manifest"
        except LauncherError as error:
            manifest, problem = None, str(error)
        try:
            size = path.stat().st_size
            added = path.with_suffix(".json").stat().st_mtime if manifest else path.stat().st_mtime
        except OSError:
            return None  # it has gone since it was listed
        if manifest and manifest.size_bytes != size:
            problem = f"it has {size} bytes, and its manifest says {manifest.size_bytes}"
        return StoredImage(f"sha256:{digest}", path, manifest, mine, size, added, problem)

    def by_digest(self, text: str) -> StoredImage | None:
        """Return the image with this digest in hexadecimal, or with at least 8 of its first digits.

        Raises ImageError if several digests begin so.
        """
        if not DIGITS.fullmatch(text):
            return None
        matching = [self.images / name for name in listed(self.images) if name.startswith(text)]
        if len(matching) > 1:
            hint = "\n".join(["Give more digits:", *(f"  sha256:{path.stem}" for path in matching)])
            raise ImageError(f"{text!r} is the beginning of {len(matching)} images", hint=hint)
        return self._entry(matching[0], self.names()) if matching else None


def find_file(directories: Sequence[Path], reference: Reference) -> Path | None:
    """Return the first file in these directories with a name of this reference: the store's, CloudAI's or enroot's.

    A name of the store gives the content-named file that it points to.
    """
    for directory in directories:
        for name in (reference.file_name, reference.cloudai_name, reference.enroot_name):
            path = directory / name
            if path.is_file():
                digest = target_of(path)
                return directory / "sha256" / f"{digest}{SUFFIX}" if digest else path
    return None


def _plain(path: Path) -> StoredImage | None:
    """Return the entry of an image file; None where it has gone."""
    try:
        size, added = path.stat().st_size, path.stat().st_mtime
        manifest, problem = read_manifest(path), None
    except OSError:
        return None
    except LauncherError as error:
        manifest, problem = None, str(error)
    return StoredImage(None, path, manifest, (path.name.removesuffix(SUFFIX),), size, added, problem)


def _dangling(path: Path, digest: str) -> ImageError:
    hint = f"Make the image again (that renews the name), or remove the name: rm {path}"
    return ImageError(f"the name points to an image that was removed (sha256:{digest})", where=str(path), hint=hint)
