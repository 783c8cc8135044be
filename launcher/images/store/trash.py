"""Images that gc is removing: it moves an image here, checks once more whether it is used, and then deletes it.

    <root>/.trash/<hex>.sqsh       not decided yet: if gc is killed now, it goes back to its place
    <root>/.trash/<hex>.deleted    decided: no process can find it any more, only its blocks are left to be freed

All of this happens under the store's lock.
"""

import contextlib
from pathlib import Path

from launcher.images.store.lock import make_directory
from launcher.images.store.store import Store


def put_in(store: Store, image: Path) -> Path:
    """Move an image here; nothing is decided yet. Return its path here. Raises OSError."""
    directory = store.root / ".trash"
    make_directory(directory, store.mode)
    return image.rename(directory / image.name)


def delete(path: Path) -> None:
    """Delete an image that lies here. Raises OSError."""
    path.rename(path.with_suffix(".deleted")).unlink()


def put_back(store: Store) -> None:
    """Finish what a killed gc left: the undecided go back to their place, the others are deleted. Raises OSError."""
    for path in sorted((store.root / ".trash").glob("*")):
        place = store.images / path.name
        # Another process may have done the same since the list was made.
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".sqsh" and not place.exists():
                path.rename(place)
            else:
                path.unlink()
