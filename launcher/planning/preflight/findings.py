"""Input and output of a preflight rule: the view of a configuration, and findings."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from launcher.contract.frozen import dataclass
from launcher.discovery.training_files import TrainingFiles


@dataclass(frozen=True)
class Finding:
    """A sentence about a configuration, with a hint. An impossible one refuses the run, any other is a warning."""

    text: str
    hint: str | None = None
    impossible: bool = False
    where: str | None = None

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}" if self.hint else self.text


@dataclass(frozen=True)
class ConfigView:
    """A frozen view of a configuration and its environment, which rules read."""

    values: Mapping[str, Any]
    """Values by key (`model.num_layers`): all if the configuration was checked (`complete`), else those from overrides
    and the recipe index. A rule says nothing about a key that is missing."""
    world_size: int
    nodes: int
    complete: bool
    gpu: str | None = None
    """The GPU model that the cluster profile states."""
    gpus: bool = True
    """Whether the run computes on GPUs."""
    local: bool = False
    """Whether the ranks run on this machine and outside a container: a path that is missing here is missing there."""
    overridden: frozenset[str] = frozenset()
    """Keys of the user's overrides."""
    files: TrainingFiles = field(default=TrainingFiles())
    ft_launcher: bool = False
    """Whether the cluster profile states that something starts the monitors of NVIDIA's fault tolerance package."""
    accumulation_kernel: bool | None = None
    """Whether the job's interpreter finds the kernel of gradient accumulation fusion; None where it is unknown."""
    packages: Mapping[str, str] | None = None
    """Packages in the image, version by name; None without an image, or if the image could not be read."""
    moe_backends: tuple[str, ...] = ()
    """Back ends of expert parallelism in the image, as its manifest lists them."""

    def number(self, key: str) -> int | None:
        """Return a positive integer; None if the value is unknown or of another kind."""
        value = self.values.get(key)
        return value if type(value) is int and value > 0 else None

    def size(self, name: str) -> int | None:
        """Return a size in section `model` by its short name; 1 if a checked configuration does not set it."""
        found = self.number(f"model.{name}")
        return 1 if found is None and self.complete else found

    def flag(self, key: str) -> bool | None:
        """Return a value as a boolean; None if it is unknown."""
        value = self.values.get(key)
        return bool(value) if key in self.values or self.complete else None


def refused(text: str, hint: str | None = None, *, where: str | None = None) -> Finding:
    """Return a finding for which the run is refused."""
    return Finding(text, hint, impossible=True, where=where)
