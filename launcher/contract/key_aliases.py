"""Keys of the configuration that have different names in different releases of Megatron Bridge, and one meaning.

A key is here only if setting the one does what setting the other did; keys whose values changed as well are not.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple, Optional

from .values import Override


class Renamed(NamedTuple):
    """One setting under two names."""

    newer: str
    """What 0.6 calls it."""
    older: str
    """What 0.3.1 calls it."""
    source: str
    """Where it shows that they are the same: paths below megatron/bridge, or of megatron-core (core/...)."""


RENAMED = (
    Renamed(
        "validation.eval_interval", "train.eval_interval", "0.6.2 training/config.py: ValidationConfig replaces it"
    ),
    Renamed("validation.eval_iters", "train.eval_iters", "0.6.2 training/config.py: ValidationConfig replaces it"),
    Renamed("validation.skip_train", "train.skip_train", "0.6.2 training/config.py: ValidationConfig replaces it"),
    Renamed("dataset.seq_length", "dataset.sequence_length", "0.6.2 training/config.py: GPTDatasetConfig copies it"),
    Renamed(
        "dataset.offline_packing_specs",
        "dataset.packed_sequence_specs",
        "0.3.1 data/datasets/packed_sequence.py and 0.6.2: the same class, PackedSequenceSpecs",
    ),
    Renamed(
        "dataset.enable_in_batch_packing",
        "dataset.pack_sequences_in_batch",
        "0.3.1 and 0.6.2 training/vlm_step.py: the same switch of the same packing",
    ),
    Renamed(
        "dataset.hf_validation_proportion",
        "dataset.val_proportion",
        "0.6.2 recipes/utils/dataset_utils.py passes val_proportion on as hf_validation_proportion",
    ),
    Renamed("dist.lazy_mpu_init", "dist.lazy_init", "0.6.2 training/config.py: lazy_init is a property for it"),
    Renamed(
        "optimizer.muon_nesterov",
        "optimizer.muon_use_nesterov",
        "0.6.2 recipes/utils/optimizer_utils.py; core/optimizer/optimizer_config.py line 266 of both releases",
    ),
)
"""Each setting that has two names."""

OLDER: Mapping[str, str] = {one.newer: one.older for one in RENAMED}
"""Keys of 0.6 with what they are called in 0.3.1."""

_OTHER = {**OLDER, **{one.older: one.newer for one in RENAMED}}


def other_name(key: str, known: Collection[str]) -> Optional[str]:
    """Return what a release with the keys `known` calls the key of another release; None if it has no name for it.

    Keys below a section count as known where `known` lists none of its keys, as for a section that is null.
    """
    for name, other in _OTHER.items():
        if key != name and not key.startswith(f"{name}."):
            continue
        twin = other + key[len(name) :]
        if twin in known or (other in known and not any(one.startswith(f"{other}.") for one in known)):
            return twin
    return None


def renamed(override: Override, key: str) -> Override:
    """Return the override with its key, and its text, under another name."""
    return Override(key, override.value, override.text.replace(override.key, key, 1))
