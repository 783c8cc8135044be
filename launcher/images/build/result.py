"""The result of a build or an import."""

from dataclasses import dataclass

from launcher.images.store.store import StoredImage


@dataclass(frozen=True)
class ImageOutcome:
    """An image that is in the store now."""

    entry: StoredImage
    reused: bool
    """Whether it existed before, or another process made it meanwhile."""

    seconds: float
