"""A run's use of its image, recorded in the image's store, so that `launcher image gc` keeps the image."""

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
    """Record that a run is about to need its image, right before the start or the submission.

    Return a warning where the record cannot be written, as in another user's store; the run may go on. Nothing is
    recorded for an image that lies in no store. Raises ImageError if the image was removed meanwhile.
    """
    if (stored := _stored(plan)) is None:
        return None
    from launcher.images.store.uses import Use, record_use

    store, digest = stored
    use = Use(
        run_id=plan.run_id,
        run_dir=plan.run_dir,
        backend=plan.backend.name,
        cluster=plan.cluster,
        user=host.user,
        host=host.hostname,
        at=host.now,
        # The number of the allocation is known; that of a batch job only after the submission.
        job=host.job.job_id if plan.backend.current_allocation and host.job else None,
        pid=os.getpid(),
        start_ticks=start_ticks_of(os.getpid()) or 0,
    )
    try:
        record_use(store, digest, use)
    except DiskError as error:
        name = plan.image.name if plan.image else digest
        return f"this run's use of {name} cannot be recorded in the store: {error.message}; gc may remove the image"
    return None


def record_job(plan: Plan, job: str) -> None:
    """Add the job's number to the record, once a batch job has one. The job runs whether that works or not."""
    if (stored := _stored(plan)) is None:
        return
    from launcher.images.store.uses import update_use

    store, digest = stored
    # The record names the run already, by which gc asks about it.
    with contextlib.suppress(DiskError, ImageError):
        update_use(store, digest, plan.run_id, job=job)


def forget_image_use(plan: Plan) -> None:
    """Remove the record, since nothing was started. gc recognises a record that cannot be removed."""
    if (stored := _stored(plan)) is None:
        return
    from launcher.images.store.uses import forget_use

    store, digest = stored
    # What stays is found by gc, which sees that the run was never started.
    with contextlib.suppress(DiskError, ImageError):
        forget_use(store, digest, plan.run_id)


def _stored(plan: Plan) -> "tuple[Store, str] | None":
    """Return the store of a plan's image, and its digest; None without an image, and for one that lies in no store."""
    if plan.image is None or plan.image.store is None or plan.image.digest is None:
        return None
    from pathlib import Path

    from launcher.images.store.store import Store

    return Store(Path(plan.image.store)), plan.image.digest
