"""Which checkpoints of a directory are complete: pure functions over files, with the standard library alone.

Bridge 0.6.2 takes the iteration from its tracker file and has no second choice: after a save that was cut short behind
the tracker (or with a shard lost later) every resume fails, and without a tracker Bridge silently starts from nothing.
So this module looks at the directories themselves.

Layout of a `torch_dist` checkpoint, as written by Bridge 0.6.2 with megatron-core 0.19.2: `iter_NNNNNNN/` with shards
`__R_W.distcp`, `.metadata` (written after all shards), `metadata.json`, then `train_state.pt` and `run_config.yaml`;
beside the directories `latest_train_state.pt` and `latest_checkpointed_iteration.txt`.
"""

import pickle
import re
from pathlib import Path
from typing import Any, Optional

TRACKERS = ("latest_train_state.pt", "latest_checkpointed_iteration.txt")
MARKERS = ("run_config.yaml", "train_state.pt", "metadata.json", ".metadata")
REQUIRED = ("train_state.pt", ".metadata")


def newest_complete(directory: Path, ckpt_format: str = "torch_dist") -> Optional[int]:
    """Return the newest iteration that `directory` holds completely; None where there is none.

    `ckpt_format` is Bridge's `checkpoint.ckpt_format`.
    """
    return next((step for step, path in reversed(iterations(directory)) if is_complete(path, ckpt_format)), None)


def iterations(directory: Path) -> list[tuple[int, Path]]:
    """Return the iterations that have a directory, complete or not, in ascending order."""
    if not directory.is_dir():
        return []
    found = [(re.fullmatch(r"iter_(\d+)", path.name), path) for path in directory.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def is_complete(path: Path, ckpt_format: str = "torch_dist") -> bool:
    """Return whether an iteration's directory has every file that loading needs, none shorter than written."""
    required = (*REQUIRED, "metadata.json") if ckpt_format == "torch_dist" else REQUIRED
    if not all(_size(path / name) > 0 for name in required):
        return False
    try:
        shards = shard_sizes((path / ".metadata").read_bytes())
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError, TypeError):
        return False
    return bool(shards) and all(_size(path / name) >= size for name, size in shards.items())


def holds_checkpoint(directory: Path) -> bool:
    """Return whether Bridge would load from `directory`: checkpoints, one of them, or a Hugging Face model."""
    if any((directory / name).is_file() for name in (*TRACKERS, *MARKERS)):
        return True
    # Bridge also accepts a Hugging Face model's directory (config and weights) as a checkpoint.
    return (directory / "config.json").is_file() and any(directory.glob("*.safetensors"))


def has_tracker(directory: Path) -> bool:
    """Return whether Bridge sees a checkpoint in `directory` at all: without a tracker it reads no iteration."""
    return any((directory / name).is_file() for name in TRACKERS)


def shard_sizes(metadata: bytes) -> dict[str, int]:
    """Return the bytes that each shard file has at least, from the pickled `.metadata` of a checkpoint.

    The pickle (of torch.distributed.checkpoint) is read without torch and without running any code from it: every class
    becomes a bare record.
    """
    sizes: dict[str, int] = {}
    content = _Records(metadata).load()
    for info in vars(content)["storage_data"].values():
        fields = vars(info)
        name = str(fields["relative_path"])
        sizes[name] = max(sizes.get(name, 0), int(fields["offset"]) + int(fields["length"]))
    return sizes


class _Record:
    """Stand-in for an object of any class in a pickle: keeps its attributes, drops its constructor's arguments."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = (*arguments, *keywords.values())

    def __setstate__(self, state: Any) -> None:
        # Dataclasses with slots have (None, attributes).
        attributes = state[1] if isinstance(state, tuple) and len(state) == 2 else state
        if isinstance(attributes, dict):
            self.__dict__.update(attributes)


class _Records(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        import io

        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Record,), {"__module__": module})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1
