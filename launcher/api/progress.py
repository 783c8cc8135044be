"""How far long work is: the protocol that commands report to, and a listener that ignores everything."""

from typing import Protocol

from launcher.contract.events import Unit


class Progress(Protocol):
    """Hear what happens while a command works. A `Report` of launcher/images hears the same of the work itself."""

    def info(self, text: str) -> None:
        """Take a sentence that a person should read now."""
        ...

    def warn(self, text: str) -> None:
        """Take a warning."""
        ...

    def stage(self, text: str) -> None:
        """Begin a new part of the work, such as `building with podman`."""
        ...

    def line(self, text: str) -> None:
        """Take a line that a program wrote."""
        ...

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """Take how much of the stage is done; `total` is None where it is unknown."""
        ...


class Silent:
    """Ignore all progress."""

    def info(self, text: str) -> None:
        """Ignore a sentence."""

    def warn(self, text: str) -> None:
        """Ignore a warning."""

    def stage(self, text: str) -> None:
        """Ignore a stage."""

    def line(self, text: str) -> None:
        """Ignore a line."""

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        """Ignore a number."""
