"""Builds and imports on a compute node, as a task of submitit.

Progress is written to a file of events (contract/events.py), and shown where the user waits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher._util import errors
from launcher._util.shell import LocalShell
from launcher.contract.events import EventWriter
from launcher.images.build.build import BuildRequest, build
from launcher.images.build.importing import ImportRequest, import_image
from launcher.images.build.result import ImageOutcome
from launcher.images.store.store import Store


@dataclass(frozen=True)
class RemoteFailure:
    """A LauncherError that was raised on the node, to be raised again where the user waits."""

    kind: str
    message: str
    where: str | None
    hint: str | None

    def error(self) -> errors.LauncherError:
        """Return the error, of its own class."""
        known = getattr(errors, self.kind, errors.OutsideError)
        made: errors.LauncherError = known(self.message, where=self.where, hint=self.hint)
        return made


Kind = Literal["build", "import"]


def perform(request: BuildRequest | ImportRequest, root: Path, events: Path) -> ImageOutcome | RemoteFailure:
    """Build or import into the store at `root`; called on the node."""
    report = EventWriter.to_file(events)
    try:
        if isinstance(request, BuildRequest):
            return build(request, Store(root), LocalShell(), report)
        return import_image(request, Store(root), LocalShell(), report)
    except errors.LauncherError as error:
        return RemoteFailure(type(error).__name__, error.message, error.where, error.hint)
