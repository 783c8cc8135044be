"""Checkpoints of synthetic files in the layout that Megatron Bridge writes, made without torch."""

import errno
import io
import json
import os
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path

import pytest

from launcher.contract import manifest
from launcher.contract.paths import RunPaths

SHARDS = {"__0_0.distcp": 1000, "__1_0.distcp": 900}

_MODULE = types.ModuleType("torch_checkpoint_stand_in")
for _name in ("Metadata", "MetadataIndex", "_StorageInfo"):
    setattr(_MODULE, _name, type(_name, (), {"__module__": _MODULE.__name__}))


def write_checkpoint(directory: Path, step: int, *, common_file: bool = True) -> Path:
    """Write a checkpoint and the trackers that name it; returns the iteration's directory.

    With `common_file` it has `common.pt`, as megatron-core 0.16.1 writes it; else an item of a shard, as of 0.19.2.
    """
    path = directory / f"iter_{step:07d}"
    path.mkdir(parents=True, exist_ok=True)
    metadata, numbers = _MODULE.Metadata(), random.Random(step)  # noqa: S311 - bytes to write
    metadata.storage_data = {}
    for name, size in SHARDS.items():
        (path / name).write_bytes(b"PK" * 10 + numbers.randbytes(size - 20))
        for offset in (0, size - 100):
            index, info = _MODULE.MetadataIndex(), _MODULE._StorageInfo()
            index.fqn = f"{name}.{offset}" if common_file or offset else "common_state/shard_0_1"
            info.__dict__.update(relative_path=name, offset=offset, length=100)
            metadata.storage_data[index] = info
    (path / ".metadata").write_bytes(_pickled(metadata))
    (path / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "common_backend": "torch"}))
    (path / "run_config.yaml").write_text("train: {}\n")
    for archive_path in (path / "train_state.pt", directory / "latest_train_state.pt", path / "common.pt"):
        if archive_path.name != "common.pt" or common_file:
            with zipfile.ZipFile(archive_path, "w") as archive:
                archive.writestr(f"{archive_path.stem}/data.pkl", numbers.randbytes(200))
    (directory / "latest_checkpointed_iteration.txt").write_text(str(step))
    return path


def empty_metadata() -> bytes:
    """A `.metadata` that can be read, and names no shard."""
    return _pickled(_MODULE.Metadata())


def record_sums(run_dir: Path, path: Path) -> Path:
    """Write the manifest of a checkpoint of a run; returns its path."""
    algorithm = manifest.best_algorithm()
    files, _ = manifest.sum_files(path, manifest.file_names(path), algorithm)
    where = RunPaths(run_dir).manifest(path)
    manifest.write_manifest(where, int(path.name.removeprefix("iter_")), algorithm, files)
    return where


def damaged(content: bytes, kind: str, place: int, bit: int) -> bytes:
    """Return content with a flipped bit, with 64 bytes of zeros, or cut, from the byte `place` on."""
    if kind == "cut":
        return content[:place]
    if kind == "zeros":
        changed = content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]
        if changed != content:
            return changed
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def unreadable(patch: pytest.MonkeyPatch, path: Path, call: str) -> None:
    """Let a call (`open`, `stat`) fail for one file, as on a disk or a server that fails for a while."""
    owner = io if call == "open" else Path
    original = getattr(owner, call)

    def failing(file: object, *arguments: object, **keywords: object) -> object:
        if str(file) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return original(file, *arguments, **keywords)

    patch.setattr(owner, call, failing)


def _pickled(value: object) -> bytes:
    sys.modules[_MODULE.__name__] = _MODULE
    try:
        return pickle.dumps(value)
    finally:
        del sys.modules[_MODULE.__name__]
