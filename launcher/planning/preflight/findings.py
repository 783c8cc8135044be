"""What a rule sees, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.discovery.training_files import TrainingFiles


@dataclass(frozen=True)
class Finding:
    """One sentence about a configuration. What is impossible is refused, the rest is a warning."""

    text: str
    hint: str | None = None
    impossible: bool = False
    where: str | None = None

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}" if self.hint else self.text


@dataclass(frozen=True)
class ConfigView:
    """Values by key (`model.num_layers`): all of them where the configuration was checked (`complete`), else those that
    overrides and the index of recipes give. A rule says nothing about a key that is not there."""

    values: Mapping[str, Any]
    world_size: int
    nodes: int
    complete: bool
    gpu: str | None = None
    """The GPU's type as the cluster profile names it."""
    gpus: bool = True
    """False where the run computes on CPU."""
    overridden: frozenset[str] = frozenset()
    files: TrainingFiles = field(default=TrainingFiles())
    packages: Mapping[str, str] | None = None
    """What the image has installed, version by name; None without an image, or where nobody could look into it."""

    def number(self, key: str) -> int | None:
        """A positive integer, or None where the value is unknown or of another kind."""
        value = self.values.get(key)
        return value if type(value) is int and value > 0 else None

    def size(self, name: str) -> int | None:
        """A size of `model` by its short name; 1 where a checked configuration has none."""
        found = self.number(f"model.{name}")
        return 1 if found is None and self.complete else found

    def flag(self, key: str) -> bool | None:
        """True, False, or None where it is unknown."""
        value = self.values.get(key)
        return bool(value) if key in self.values or self.complete else None


def refused(text: str, hint: str | None = None, *, where: str | None = None) -> Finding:
    """A finding that no run survives."""
    return Finding(text, hint, impossible=True, where=where)
