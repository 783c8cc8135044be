"""How far long work is: the protocol that commands report to, and a listener that ignores everything."""

from typing import Protocol

from launcher.contract.events import ProgressListener, Unit


class Progress(ProgressListener, Protocol):
    """Hear what happens while a command works: its progress, and words for people."""

    def info(self, text: str) -> None:
        """Take a sentence that a person should read now."""
        ...

    def warn(self, text: str) -> None:
        """Take a warning."""
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
