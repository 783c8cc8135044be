"""Uses of images: one small file for each run, so that gc leaves alone what a queued or running job needs.

    <root>/uses/<hex>/<run id>.json

A use is recorded before the job is submitted, and completed with the job's number after it. It need not be
removed: gc asks whether the run still lives, and forgets it when it has been over for long enough.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from launcher._util.errors import ImageError, LauncherError
from launcher.contract.files import write_text
from launcher.images.store import trash
from launcher.images.store.lock import make_directory
from launcher.images.store.space import writing
from launcher.images.store.store import Store

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


@dataclass(frozen=True)
class Use:
    """A run that needs an image.

    `backend` is how it was started (local, allocation, batch), `at` when, in seconds since the epoch. `job` is its
    number in the Slurm of the profile `cluster`, None until it has one; `pid` and `start_ticks` are the launcher's
    process on `host`, for runs without job.
    """

    run_id: str
    run_dir: str
    backend: str
    cluster: str
    user: str
    host: str
    at: float
    job: str | None
    pid: int
    start_ticks: int


def record_use(store: Store, digest: str, use: Use) -> None:
    """Record that a run needs the image, before its job is submitted; the image is there when this returns.

    Raises ImageError if it is not, DiskError if the record cannot be written (a store that only others may write to).

    Against gc at the same moment: here the record is written first, and then the image looked for; gc first moves the
    image away and then looks for records. So if the image is found here, gc has not moved it yet, and will see the
    record and put it back. If not, this waits for the store's lock: gc has then finished, or undone what it did.
    """
    image = store.image_path(digest)
    path = _file(store, digest, use.run_id)
    _write(store, path, use)
    if _is_there(image):
        return
    # Whether the image is there decides; a store that cannot be locked or written is then reported as missing it.
    with contextlib.suppress(LauncherError, OSError), store.lock("store").held():
        trash.put_back(store)
    if _is_there(image):
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other runs use the image
        path.parent.rmdir()
    raise ImageError(
        f"the image sha256:{image.stem} is not in the store",
        where=str(store.root),
        hint="It was removed meanwhile: make it again (`launcher image build`, `launcher image import`).",
    )


def update_use(
    store: Store,
    digest: str,
    run_id: str,
    *,
    job: str | None = None,
    pid: int | None = None,
    start_ticks: int | None = None,
) -> None:
    """Complete the record of `record_use` with facts that are known only after the submission.

    Raises ImageError if no such use is recorded, DiskError.
    """
    path = _file(store, digest, run_id)
    use = read_use(path)
    if use is None:
        raise ImageError(f"no use of this image by run {run_id} is recorded", where=str(path))
    new = replace(
        use,
        job=use.job if job is None else job,
        pid=use.pid if pid is None else pid,
        start_ticks=use.start_ticks if start_ticks is None else start_ticks,
    )
    _write(store, path, new)


def forget_use(store: Store, digest: str, run_id: str) -> None:
    """Remove the record of a run whose job was refused. Raises DiskError."""
    path = _file(store, digest, run_id)
    with writing(path, "remove the use"):
        path.unlink(missing_ok=True)


def uses_of(store: Store, digest: str) -> tuple[Use, ...]:
    """Return the uses of the image, oldest first, finished runs among them."""
    uses = [use for path in files_of(store, digest) if (use := read_use(path))]
    return tuple(sorted(uses, key=lambda use: use.at))


def files_of(store: Store, digest: str) -> list[Path]:
    """Return the files that hold the uses of an image; one that cannot be read may stand for any run."""
    directory = _file(store, digest, "x").parent
    # Making a file in it lets an NFS client see what others did there: it takes its own change as a reason to ask
    # the server for the names again (see "Attribute caching" in nfs(5)).
    marker = directory / f".{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):  # a store that this user may only read
        marker.touch()
        marker.unlink()
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError:
        return []


def read_use(path: Path) -> Use | None:
    """Return the use in one of the files; None if it cannot be read."""
    try:
        value = json.loads(path.read_text())
        return Use(**{field.name: value[field.name] for field in fields(Use)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(store: Store, digest: str, run_id: str) -> Path:
    name = run_id if _PLAIN.fullmatch(run_id) else hashlib.sha256(run_id.encode()).hexdigest()
    return store.root / "uses" / store.image_path(digest).stem / f"{name}.json"


def _is_there(image: Path) -> bool:
    """Return whether the image is in its place; opening it lets an NFS client ask the server."""
    try:
        os.close(os.open(image, os.O_RDONLY))
    except OSError:
        return False
    return True


def _write(store: Store, path: Path, use: Use) -> None:
    with writing(path, "record the use of the image"):
        while True:
            make_directory(path.parent, store.mode)
            try:
                write_text(path, json.dumps(asdict(use)), mode=store.mode & 0o666, exact_mode=True)
                return
            except FileNotFoundError:
                # gc removed the empty directory in between.
                time.sleep(0.01)
