"""The use of an image, noted in its store, so that `launcher image gc` leaves alone what a run needs."""

import contextlib
import os
from typing import TYPE_CHECKING

from launcher._util.errors import DiskError, ImageError
from launcher.contract.process import start_ticks_of
from launcher.discovery.host import HostContext
from launcher.planning.model import Plan

if TYPE_CHECKING:
    from launcher.images.store.store import Store


def record_image_use(plan: Plan, host: HostContext) -> str | None:
    """Note that a run is about to need its image: right before it is started or submitted.

    Nothing is noted for an image that lies in no store. Returns a warning where the note cannot be written, as in a
    store that is somebody else's: that keeps nobody from running. Raises ImageError if the image was removed meanwhile.
    """
    if (place := _place(plan)) is None:
        return None
    from launcher.images.store.uses import Use, record_use

    store, digest = place
    use = Use(
        run_id=plan.run_id,
        run_dir=plan.run_dir,
        backend=plan.backend.name,
        cluster=plan.cluster,
        user=host.user,
        host=host.hostname,
        at=host.now,
        # An allocation's number is known already; a batch job's only after it was submitted.
        job=host.allocation.job_id if plan.backend.current_allocation and host.allocation else None,
        pid=os.getpid(),
        start_ticks=start_ticks_of(os.getpid()) or 0,
    )
    try:
        record_use(store, digest, use)
    except DiskError as error:
        name = plan.image.name if plan.image else digest
        return f"that this run needs {name} cannot be noted in the store: {error.message}; gc may remove it"
    return None


def record_job(plan: Plan, job: str) -> None:
    """Complete the note with the job's number, once a batch job has one. The job runs, whether that works or not."""
    if (place := _place(plan)) is None:
        return
    from launcher.images.store.uses import update_use

    store, digest = place
    with contextlib.suppress(DiskError, ImageError):
        update_use(store, digest, plan.run_id, job=job)


def forget_image_use(plan: Plan) -> None:
    """Take the note back: nothing was started. What remains of one that cannot be removed, gc finds out."""
    if (place := _place(plan)) is None:
        return
    from launcher.images.store.uses import forget_use

    store, digest = place
    with contextlib.suppress(DiskError, ImageError):
        forget_use(store, digest, plan.run_id)


def _place(plan: Plan) -> "tuple[Store, str] | None":
    """The store of a plan's image and its digest; None without an image, and for one that lies in no store."""
    if plan.image is None or plan.image.store is None or plan.image.digest is None:
        return None
    from pathlib import Path

    from launcher.images.store.store import Store

    return Store(Path(plan.image.store)), plan.image.digest
