"""What making an image gives: for a build and an import alike."""

from dataclasses import dataclass

from launcher.images.store.store import StoredImage


@dataclass(frozen=True)
class ImageOutcome:
    """An image that is in the store now."""

    entry: StoredImage
    reused: bool
    """It was there before, or somebody else made it while we waited."""

    seconds: float
