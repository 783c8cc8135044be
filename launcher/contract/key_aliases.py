"""Keys of the configuration that have different names in different releases of Megatron Bridge."""

from collections.abc import Container, Mapping
from typing import Optional

OLDER: Mapping[str, str] = {
    "validation.eval_interval": "train.eval_interval",
    "validation.eval_iters": "train.eval_iters",
    "dataset.seq_length": "dataset.sequence_length",
    "dataset.offline_packing_specs": "dataset.packed_sequence_specs",
}
"""Keys of 0.6 with what they are called in 0.3.1."""

_OTHER = {**OLDER, **{old: new for new, old in OLDER.items()}}


def other_name(key: str, known: Container[str]) -> Optional[str]:
    """Return what a release with the keys `known` calls the key of another release; None if it has no name for it."""
    for name, other in _OTHER.items():
        twin = other + key[len(name) :]
        if (key == name or key.startswith(f"{name}.")) and twin in known:
            return twin
    return None
