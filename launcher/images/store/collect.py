"""Garbage collection: removal of images that nothing needs any more, and of what dead builders left.

An image stays if a queued or running job names it, if it is not known whether one does, if it has a name (unless names
do not count), or if it was added or used lately. Files that the store did not make are never touched.

Each image goes under the store's lock: its names, then the image moves to the trash, then its uses are read once more
(see `uses.record_use` for the other side), then it is deleted, then its manifest. A gc that is killed in between leaves
an image without name, one in the trash or a manifest alone: no command sees these as broken, and the next gc goes on
from there.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.images.store import trash, workspace
from launcher.images.store.lock import HeldLock
from launcher.images.store.names import SUFFIX
from launcher.images.store.space import writing
from launcher.images.store.store import Store, StoredImage
from launcher.images.store.uses import Use, files_of, read_use

IsLive = Callable[[Use], bool | None]
"""Whether a run still needs its image; None if that cannot be found out."""


@dataclass(frozen=True)
class RemovedItem:
    """Something that gc removed, or would remove: an image (`digest`), or what a dead builder left (None)."""

    path: Path
    digest: str | None
    names: tuple[str, ...]
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class KeptImage:
    """An image that stays."""

    entry: StoredImage
    reason: str


@dataclass(frozen=True)
class GcResult:
    """The images that gc removed and kept, or, in a dry run, would have."""

    removed: tuple[RemovedItem, ...]
    kept: tuple[KeptImage, ...]

    @property
    def freed_bytes(self) -> int:
        """Return how many bytes on the disk are free again."""
        return sum(each.size_bytes for each in self.removed)


@dataclass
class _Policy:
    older_than_s: float
    keep_names: bool
    is_live: IsLive
    now: float
    answers: dict[Use, bool | None] = field(default_factory=dict)

    def lives(self, use: Use) -> bool | None:
        """Return what `is_live` says and remember it: it may ask Slurm, and is asked again under the store's lock."""
        if use not in self.answers:
            self.answers[use] = self.is_live(use)
        return self.answers[use]


def collect(
    store: Store,
    *,
    older_than_s: float,
    is_live: IsLive,
    keep_names: bool = True,
    dry_run: bool = False,
    now: float | None = None,
) -> GcResult:
    """Remove the images that were neither added nor used for `older_than_s` seconds and that nothing needs.

    `now` (seconds since the epoch) is the moment from which ages count. Raises DiskError, LeaseLostError.
    """
    if not store.root.is_dir():
        return GcResult((), ())
    policy = _Policy(older_than_s, keep_names, is_live, time.time() if now is None else now)
    if not dry_run:
        with store.lock("store").held(), writing(store.root, "tidy up the trash"):
            trash.put_back(store)
    removed: list[RemovedItem] = []
    kept: list[KeptImage] = []
    for entry in store.entries():
        outcome = _collect_one(store, entry, policy, dry_run=dry_run)
        if isinstance(outcome, KeptImage):
            kept.append(outcome)
        elif outcome is not None:
            removed.append(outcome)
    if not dry_run:
        _forget_old_uses(store, policy)
        _remove_stray_manifests(store)
    left = workspace.remove_dead(store.partial, store.me, store.lock, watch=True, dry_run=dry_run)
    removed += [RemovedItem(each.path, None, (), size, "its builder is gone") for each, size in left]
    return GcResult(tuple(removed), tuple(kept))


def _collect_one(store: Store, entry: StoredImage, policy: _Policy, *, dry_run: bool) -> KeptImage | RemovedItem | None:
    """Keep an image or remove it; return None if another process removed it meanwhile."""
    if reason := _reason_to_keep(store, entry, policy):
        return KeptImage(entry, reason)
    if dry_run:
        return _removed_item(store, entry, policy)
    with store.lock("store").held() as lock:
        fresh = store.by_digest(entry.path.stem)
        if fresh is None:
            return None
        if reason := _reason_to_keep(store, fresh, policy):
            return KeptImage(fresh, reason)
        removed = _removed_item(store, fresh, policy)
        lock.check()
        try:
            reason = _delete(store, fresh, policy, lock)
        except OSError as error:
            with contextlib.suppress(OSError):  # every later gc puts back what lies there
                trash.put_back(store)
            reason = f"it cannot be removed: {error.strerror}"
    return KeptImage(fresh, reason) if reason else removed


def _reason_to_keep(store: Store, entry: StoredImage, policy: _Policy) -> str | None:
    """Return why an image has to stay; None if it may go."""
    digest = entry.path.stem
    if needed := _needed_by(store, digest, policy):
        return needed
    if policy.keep_names and entry.names:
        return f"it has a name: {', '.join(entry.names)}"
    unused_s = policy.now - _last_used(store, entry)
    return f"it was added or used {_ago(unused_s)} ago" if unused_s < policy.older_than_s else None


def _last_used(store: Store, entry: StoredImage) -> float:
    """Return when the image was used or added last, in seconds since the epoch."""
    used = [use.at for path in files_of(store, entry.path.stem) if (use := read_use(path))]
    return max([entry.added, *used])


def _needed_by(store: Store, digest: str, policy: _Policy) -> str | None:
    for path in files_of(store, digest):
        use = read_use(path)
        if use is None:
            # A use that has just been removed does not count; one that cannot be read may belong to any run.
            if path.exists():
                return f"the record of a run that uses it cannot be read: {path}"
            continue
        lives = policy.lives(use)
        if lives is None:
            return f"it is not known whether {_shown(use)} is over"
        if lives:
            return f"{_shown(use)} needs it"
    return None


def _delete(store: Store, entry: StoredImage, policy: _Policy, lock: HeldLock) -> str | None:
    for name in entry.names:
        (store.root / f"{name}{SUFFIX}").unlink(missing_ok=True)
    moved = trash.put_in(store, entry.path)
    if reason := _needed_by(store, entry.path.stem, policy):
        moved.rename(entry.path)
        return reason
    lock.check()
    # From here on the image is gone for all other processes: they see that it is not in its place.
    trash.delete(moved)
    entry.path.with_suffix(".json").unlink(missing_ok=True)
    workspace.remove_tree(store.root / "uses" / entry.path.stem)
    return None


def _forget_old_uses(store: Store, policy: _Policy) -> None:
    """Remove the records of runs that have been over for long enough."""
    for directory in (store.root / "uses").glob("*"):
        with contextlib.suppress(OSError):  # another user's records, or removed by another gc
            for path in directory.glob("*.json"):
                use = read_use(path)
                old = use is not None and policy.now - max(use.at, path.stat().st_mtime) >= policy.older_than_s
                if use is not None and old and policy.lives(use) is False:
                    path.unlink()
            directory.rmdir()


def _remove_stray_manifests(store: Store) -> None:
    """Remove manifests whose image is missing: a builder was killed right before it put the image there."""
    with store.lock("store").held(), writing(store.images, "remove a manifest"):
        for path in store.images.glob("*.json"):
            if not path.with_suffix(SUFFIX).exists():
                path.unlink(missing_ok=True)


def _removed_item(store: Store, entry: StoredImage, policy: _Policy) -> RemovedItem:
    unnamed = "" if entry.names else "no name, "
    reason = f"{unnamed}neither added nor used for {_ago(policy.now - _last_used(store, entry))}"
    return RemovedItem(entry.path, entry.digest, entry.names, entry.size_bytes, reason)


def _shown(use: Use) -> str:
    where = f"job {use.job}, {use.cluster}" if use.job else f"process {use.pid} on {use.host}"
    return f"run {use.run_id} of {use.user} ({where})"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} seconds"
