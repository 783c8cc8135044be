"""Stores for tests: small images, quick leases."""

import hashlib
from pathlib import Path

from launcher.images.manifest import Manifest
from launcher.images.store.building import start_building
from launcher.images.store.space import writing
from launcher.images.store.store import Store, StoredImage
from tests.images.locks import QUICK, node

MANIFEST = Manifest(size_bytes=0, architecture="x86_64", created="2026-01-02T03:04:05+00:00")


def a_store(root: Path, *, host: str | None = None, kernel_locks: bool | None = None) -> Store:
    return Store(root, owner=node(host) if host else None, kernel_locks=kernel_locks, timing=QUICK)


def add(store: Store, content: str, *names: str, key: str | None = None, manifest: Manifest = MANIFEST) -> StoredImage:
    """Build an image with this content."""
    with start_building(store, key or content) as building:
        file = building.workspace / "made.sqsh"
        with writing(file, "write the image"):
            file.write_text(content)
        return building.add(file, manifest, names)


def digest_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def whole(store: Store) -> list[StoredImage]:
    """All images, after a look at everything: content, manifests, names, and that nothing half made can be seen."""
    entries = store.entries()
    for entry in entries:
        assert entry.problem is None
        with entry.path.open("rb") as file:
            assert entry.digest == f"sha256:{hashlib.sha256(file.read()).hexdigest()}"
        assert entry.manifest is not None
        assert entry.manifest.digest == entry.digest
    for name, digest in store.names().items():
        assert (store.root / f"{name}.sqsh").is_file()
        assert digest in {entry.path.stem for entry in entries}
    return entries
