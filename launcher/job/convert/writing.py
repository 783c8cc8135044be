"""Writer of a Hugging Face directory: shards of safetensors with their index, config.json, the tokenizer's files."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..model import hf_files
from .architecture import Architecture

SHARD_BYTES = 5 * 10**9
"""Default size of transformers' shards."""

CARRIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
    "*.tiktoken",
    "generation_config.json",
    "*.py",
)
"""Files beside the weights that belong to a model; `*.py` for code that an `auto_map` in config.json names."""


def write_model(
    stream: "Iterable[tuple[str, Any]]",
    found: Architecture,
    target: Path,
    dtype: Any,
    report: "Callable[[int, int], None]",
    write: bool,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the tensors of `stream` and the model's other files; all ranks draw from the stream, one writes."""
    shards = _Shards(target, shard_bytes)
    tied = bool(getattr(found.config.get_text_config(), "tie_word_embeddings", False))
    done = 0
    for name, tensor in stream:
        # Bridge also yields the output layer, which is the embedding again.
        if write and not (tied and name == "lm_head.weight"):
            shards.add(name, tensor)
            done += 1
            report(done, max(done, found.tensors))
    if write:
        shards.end()
        found.config.dtype = str(dtype).removeprefix("torch.")
        found.config.save_pretrained(str(target))
        for pattern in CARRIED:
            for path in sorted(found.directory.glob(pattern)) if found.directory else ():
                if path.is_file():
                    shutil.copyfile(path, target / path.name)


class _Shards:
    """Buffer of tensors that writes a file whenever the next tensor would make it too large."""

    def __init__(self, target: Path, shard_bytes: int) -> None:
        self._target, self._limit = target, shard_bytes
        self._held: dict[str, Any] = {}
        self._bytes = self._total = 0
        self._names: list[list[str]] = []

    def add(self, name: str, tensor: Any) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._held and self._bytes + size > self._limit:
            self._write()
        # A copy, because Bridge's tensor may share memory with the model or be a view of a larger one.
        self._held[name] = tensor.detach().cpu().clone().contiguous()
        self._bytes += size
        self._total += size

    def end(self) -> None:
        if self._held:
            self._write()
        count, weight_map = len(self._names), {}
        for number, names in enumerate(self._names, start=1):
            name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self._target / name)
            weight_map.update(dict.fromkeys(names, name))
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            (self._target / hf_files.INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")

    def _write(self) -> None:
        from safetensors.torch import save_file

        self._names.append(list(self._held))
        save_file(self._held, str(self._part(len(self._names))), metadata={"format": "pt"})
        # safetensors creates files that only their owner can read.
        self._part(len(self._names)).chmod(self._target.stat().st_mode & 0o666)
        self._held, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self._target / f"part-{number:05d}"
