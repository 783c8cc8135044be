"""What making an image gives: for a build and an import alike."""

from dataclasses import dataclass

from launcher.images.store.store import Entry


@dataclass(frozen=True)
class Made:
    """An image that is in the store now."""

    entry: Entry
    reused: bool
    """It was there before, or somebody else made it while we waited."""

    seconds: float
