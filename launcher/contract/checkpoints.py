"""Which checkpoints of a directory are whole by their structure: pure functions over files, standard library alone.

Bridge 0.6.2 takes the iteration from its tracker file and has no second choice: after a save that was cut short behind
the tracker (or with a shard lost later) every resume fails, and without a tracker Bridge silently starts from nothing.
So this module looks at the directories themselves.

Layout of a `torch_dist` checkpoint, as written by Bridge 0.6.2 with megatron-core 0.19.2: `iter_NNNNNNN/` with shards
`__R_W.distcp`, `.metadata` (written after all shards), `metadata.json`, then `train_state.pt` and `run_config.yaml`;
beside the directories `latest_train_state.pt` and `latest_checkpointed_iteration.txt`. Both trackers are written after
everything that loading needs. megatron-core 0.16.1 writes other objects than tensors to `common.pt`; 0.19.2 writes them
into a shard, as the item `common_state` (core/dist_checkpointing/serialization.py).
"""

import errno
import json
import pickle
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

TRACKERS = ("latest_train_state.pt", "latest_checkpointed_iteration.txt")
MARKERS = ("run_config.yaml", "train_state.pt", "metadata.json", ".metadata")
REQUIRED = ("train_state.pt", ".metadata")
COMMON = "common.pt"
SHARD = re.compile(r"__(\d+)_\d+\.distcp")
"""A shard's name; the number is the rank that wrote it."""

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

_HEAD_BYTES = 16
"""How much of an item is read: torch.save begins each with the signature of a zip archive, never with zeros."""


@dataclass(frozen=True)
class Problem:
    """Why a checkpoint is not whole: the file, and what is wrong with it."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file} {self.reason}"


def is_missing(error: OSError) -> bool:
    """Return whether an error says that there is no such file.

    Any other (EIO, ESTALE, EACCES) says nothing about the file: it may be whole.
    """
    return error.errno in _MISSING


def newest_complete(directory: Path, ckpt_format: str = "torch_dist") -> Optional[int]:
    """Return the newest iteration that `directory` holds completely; None where there is none.

    `ckpt_format` is Bridge's `checkpoint.ckpt_format`. Raises OSError where a file may be there and cannot be read.
    """
    return next((step for step, path in reversed(iterations(directory)) if is_complete(path, ckpt_format)), None)


def iterations(directory: Path) -> list[tuple[int, Path]]:
    """Return the iterations that have a directory, complete or not, in ascending order."""
    if not directory.is_dir():
        return []
    found = [(re.fullmatch(r"iter_(\d+)", path.name), path) for path in directory.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def is_complete(path: Path, ckpt_format: str = "torch_dist") -> bool:
    """Return whether an iteration's directory has every file that loading needs, none shorter than written.

    Raises OSError where a file may be there and cannot be read.
    """
    return find_problem(path, ckpt_format) is None


def find_problem(path: Path, ckpt_format: str = "torch_dist") -> Optional[Problem]:
    """Return what keeps the checkpoint in an iteration's directory from being loaded, as its structure shows it.

    Shards are held against `.metadata`: they exist, have their size, and the items that are looked at in each are not
    zeros. A changed byte is not seen; sums see that (manifest.py). None where nothing was found. Raises OSError where a
    file may be there and cannot be read: that is not damage.
    """
    try:
        return _find_problem(path, ckpt_format)
    except OSError as error:
        if is_missing(error):  # it was removed meanwhile
            return Problem(Path(error.filename or path).name, "is missing")
        raise


def _find_problem(path: Path, ckpt_format: str) -> Optional[Problem]:
    problem = _small_file_problem(path, is_torch_dist=ckpt_format == "torch_dist")
    if problem is not None:
        return problem
    data = (path / ".metadata").read_bytes()
    try:
        content = read_metadata(data)
    except Exception as error:  # garbage makes an unpickler raise anything
        return Problem(".metadata", f"cannot be read ({type(error).__name__}: {str(error)[:100]})")
    if not content.items:
        return Problem(".metadata", "lists no shard")
    if ckpt_format == "torch_dist" and not content.has_common_state and _size(path / COMMON) < 0:
        return Problem(COMMON, "is missing")
    for name, places in sorted(content.items.items()):
        problem = _shard_problem(path, name, places)
        if problem is not None:
            return problem
    return None


def tracked_iteration(directory: Path) -> Optional[int]:
    """Return the iteration that the text tracker names: the newest whose save is final. None where none is named."""
    try:
        return int((directory / TRACKERS[1]).read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


def holds_checkpoint(directory: Path) -> bool:
    """Return whether Bridge would load from `directory`: checkpoints, one of them, or a Hugging Face model."""
    if any((directory / name).is_file() for name in (*TRACKERS, *MARKERS)):
        return True
    # Bridge also accepts a Hugging Face model's directory (config and weights) as a checkpoint.
    return (directory / "config.json").is_file() and any(directory.glob("*.safetensors"))


def has_tracker(directory: Path) -> bool:
    """Return whether Bridge sees a checkpoint in `directory` at all: without a tracker it reads no iteration."""
    return any((directory / name).is_file() for name in TRACKERS)


@dataclass(frozen=True)
class Metadata:
    """What `.metadata` says of the shards."""

    items: dict[str, list[tuple[int, int]]]
    """Offset and length of each item, by the name of the shard's file."""
    has_common_state: bool
    """Whether the shards hold what is not a tensor as well; otherwise `common.pt` does."""


def read_metadata(metadata: bytes) -> Metadata:
    """Return what the pickled `.metadata` of a checkpoint says.

    The pickle (of torch.distributed.checkpoint) is read without torch and without running any code from it: every class
    becomes a bare record. What is not such a pickle raises an exception of any kind.
    """
    items: dict[str, list[tuple[int, int]]] = {}
    has_common_state = False
    content = _Records(metadata).load()
    for index, info in vars(content)["storage_data"].items():
        fields = vars(info)
        items.setdefault(str(fields["relative_path"]), []).append((int(fields["offset"]), int(fields["length"])))
        has_common_state = has_common_state or str(vars(index).get("fqn")).startswith("common_state/")
    return Metadata(items, has_common_state)


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


def _small_file_problem(path: Path, *, is_torch_dist: bool) -> Optional[Problem]:
    required = (*REQUIRED, "metadata.json") if is_torch_dist else REQUIRED
    for name in required:
        if (size := _size(path / name)) <= 0:
            return Problem(name, "is missing" if size < 0 else "is empty")
    if is_torch_dist and not _is_backend(path / "metadata.json"):
        return Problem("metadata.json", "does not name the format of the checkpoint")
    for name in ("train_state.pt", COMMON):
        if (name in required or _size(path / name) >= 0) and not _is_archive(path / name):
            return Problem(name, "is damaged: it is not a whole archive of torch.save")
    return None


def _size(path: Path) -> int:
    """Return the size of a file, -1 where there is none. Raises OSError."""
    try:
        status = path.stat()
    except ValueError:  # a damaged `.metadata` may name anything
        return -1
    except OSError as error:
        if is_missing(error):
            return -1
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _is_backend(path: Path) -> bool:
    """Return whether a file is the metadata of torch_dist; one that cannot be parsed is not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("sharded_backend"), str)


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except Exception:  # a directory of an archive that is garbage makes zipfile raise anything
        # It also hides that a file cannot be read, which raises here.
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
        return False


def _shard_problem(path: Path, name: str, places: list[tuple[int, int]]) -> Optional[Problem]:
    if Path(name).name != name:
        return Problem(".metadata", f"names a shard outside the checkpoint: {name[:100]!r}")
    size, needed = _size(path / name), max(map(sum, places))
    if size < needed:
        what = "is missing" if size < 0 else f"has {size} bytes where {needed} were written"
        return Problem(name, what)
    offsets = sorted(offset for offset, length in places if length >= _HEAD_BYTES)
    looked_at = {offsets[0], offsets[len(offsets) // 2], offsets[-1]} if offsets else set()
    try:
        with (path / name).open("rb") as shard:
            for offset in sorted(looked_at):
                shard.seek(offset)
                if not any(shard.read(_HEAD_BYTES)):
                    return Problem(name, f"holds zeros at byte {offset}, where an item begins")
    except (OSError, ValueError) as error:
        # EINVAL: an offset in `.metadata` is negative, so that is damaged.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        return Problem(name, f"cannot be read ({error})")
    return None
