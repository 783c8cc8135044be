"""Records of rank 0's environment: variables, imported packages, experiment trackers."""

from typing import Literal, Optional, TypedDict


class EnvironmentRecord(TypedDict):
    """The environment of rank 0: values that are harmless or in the plan; of all others the names, in `left_out`."""

    version: Literal[1]
    environment: dict[str, str]
    left_out: list[str]


class _MegatronRecord(TypedDict):
    """What rank 0 has imported of Megatron."""

    version: Literal[1]
    core: str
    """The version of megatron-core."""
    core_path: str
    core_commit: Optional[str]
    """Of a checkout; null for an installed package."""
    bridge: Optional[str]
    training_path: Optional[str]
    """The directory of megatron.training; null where it is not imported."""


class MegatronRecord(_MegatronRecord, total=False):
    """The content of megatron.json: what rank 0 has imported."""

    packages: dict[str, str]
    """Versions of the packages of the training stack that are installed, and of Python and CUDA."""


class TrackerRecord(TypedDict):
    """Where an experiment tracker has the run."""

    id: Optional[str]
    """The same in all attempts of a run."""
    name: Optional[str]
    project: Optional[str]
    url: Optional[str]
    """Null where it is not on a server."""
    place: Optional[str]
    """The directory or address where it is, without a server."""


class _TrackersRecord(TypedDict):
    version: Literal[1]


class TrackersRecord(_TrackersRecord, total=False):
    """The content of trackers.json: where the trackers of an attempt are found."""

    wandb: TrackerRecord
    mlflow: TrackerRecord
    tensorboard: TrackerRecord
