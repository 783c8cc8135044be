"""What training will read from Hugging Face's hub, as its configuration says: whether it is cached, how to fetch it.

Files are fetched with huggingface_hub, which resumes an interrupted download and shows only complete files. The files
that decide whether something counts as cached come last, so a process killed between two files leaves it not cached.
"""

import contextlib
import fnmatch
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ...contract.hub import is_hub_name
from ..model import hub
from . import explain, offline
from .shared_download import Resource

_TOKENIZERS = ("HuggingFaceTokenizer", "SFTTokenizer", "MultimodalTokenizer")
_SOURCES = ("source", "validation_source", "test_source", "hf_dataset", "hf_validation_dataset", "hf_test_dataset")
"""Fields of Bridge 0.6.2's data set configurations that hold an HFDatasetSourceConfig."""

_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt", "tokenizer.json")
"""Files that each suffice to make a tokenizer; the last one needs no other file. They are fetched last."""
_SMALL = (
    *(
        "config.json",
        "generation_config.json",
        "*processor_config.json",
        "*.py",
        "*.jinja",
        "additional_chat_templates/*",
    ),
    *(
        "tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template*",
        "merges.txt",
        *_VOCABULARIES,
    ),
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_RETRY_WAITS_S = (1.0, 3.0, 9.0)
"""Waits before each retry; the library itself retries single files, but not the list of files."""


@dataclass(frozen=True)
class Need:
    """One thing on the hub: `kind` is tokenizer, weights or data; `source` is Bridge's own description of data."""

    kind: str
    name: str
    revision: Optional[str] = None
    source: Any = field(default=None, compare=False)
    section: Any = field(default=None, compare=False)

    @property
    def title(self) -> str:
        """Return how messages name it."""
        words = {"tokenizer": "tokenizer of ", "weights": "weights of ", "data": "data set "}
        return f"the {words[self.kind]}{self.name}{f' at {self.revision}' if self.revision else ''}"


def of_config(config: Any, init: Optional[str] = None) -> tuple[Need, ...]:
    """Return what the configuration names on the hub and no local file or directory has; `init` is --init."""
    weights = () if init == "random" else _of_weights(config)
    found = [*_of_tokenizer(config), *weights, *_of_data(getattr(config, "dataset", None))]
    return tuple(dict.fromkeys(found))


def unsupported_field(config: Any) -> Optional[str]:
    """Return a data field that names something on a hub and is not understood here; then ranks must stay online."""
    dataset = getattr(config, "dataset", None)
    if dataset is None:
        return None
    if type(dataset).__name__ == "HFDatasetConfig":  # before Bridge 0.4: its builder has a cache of its own
        return f"dataset.dataset_name={dataset.dataset_name}"
    for name, value in vars(dataset).items():
        known = name in ("hf_processor_path", "hf_output_root")
        if name.startswith(("hf_", "processor")) and not known and isinstance(value, str) and is_hub_name(value):
            return f"dataset.{name}={value}"
    return None


def directory(need: Need) -> Path:
    """Return the cache directory that holds it."""
    if need.kind == "data":
        from importlib import import_module

        return Path(str(import_module("datasets.config").HF_DATASETS_CACHE)).expanduser()
    return hub_cache()


def hub_cache() -> Path:
    """Return Hugging Face's hub cache, as its library sees it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def resource(need: Need) -> Resource:
    """Return it as a resource for shared_download.py."""
    text = json.dumps([need.kind, need.name, need.revision, repr(need.source)])
    folders = [repository(need.name)]
    if need.kind == "data":
        owner, _, name = need.name.rpartition("/")
        folders = [directory(need) / f"{owner}___{name}".lstrip("_"), repository(need.name, "datasets")]
    return Resource(hashlib.sha256(text.encode()).hexdigest()[:20], need.title, tuple(folders))


def repository(name: str, kind: str = "models") -> Path:
    """Return where the cache keeps a repository."""
    return hub_cache() / f"{kind}--{name.replace('/', '--')}"


def snapshot(name: str, revision: Optional[str]) -> Optional[Path]:
    """Return the cached files of a model, complete or not; None where the cache has none."""
    home, commit = repository(name), revision or "main"
    if not re.fullmatch("[0-9a-f]{40}", commit):
        try:
            commit = (home / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    found = home / "snapshots" / commit
    return found if found.is_dir() else None


def is_cached(need: Need) -> Optional[bool]:
    """Return True where all files are in the cache, else None."""
    if need.kind == "data":
        return _look_at_data(need)
    files = snapshot(need.name, need.revision)
    if files is None:
        return None
    if need.kind == "tokenizer":
        return any(any(files.glob(pattern)) for pattern in _VOCABULARIES) or None
    return ((files / "config.json").is_file() and _weights_are_whole(files)) or None


def download(need: Need) -> bool:
    """Fetch it from the hub. Raises HubError with one sentence where that fails."""
    for wait in (*_RETRY_WAITS_S, None):
        try:
            _download(need)
            break
        except Exception as error:
            if wait is None or not explain.is_transient(error):
                raise explain.hub_error(error, need.title) from error
            time.sleep(max(wait, explain.retry_after_s(error)))
    return True


def _download(need: Need) -> None:
    if need.kind == "data":
        from megatron.bridge.data.sources.hf import load_hf_dataset_source

        load_hf_dataset_source(need.source)
        return
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    small, weights = _wanted(need, HfApi().model_info(need.name, revision=need.revision))
    for name in small:
        hf_hub_download(need.name, name, revision=need.revision)
    if weights:
        snapshot_download(need.name, revision=need.revision, allow_patterns=weights)


def size(need: Need) -> Optional[int]:
    """Return the bytes of all its files, which the hub is asked for; None where that cannot be known beforehand."""
    if need.kind == "data":
        return None
    from huggingface_hub import HfApi

    try:
        with offline.allow_requests():
            info = HfApi().model_info(need.name, revision=need.revision, files_metadata=True)
        wanted = [name for names in _wanted(need, info) for name in names]
    except Exception:  # the download will report what is wrong
        return None
    return sum(one.size or 0 for one in info.siblings or () if one.rfilename in wanted)


def _wanted(need: Need, info: Any) -> tuple[list[str], list[str]]:
    """Return the names of the files to fetch: small ones in their order, then those of the weights."""
    names = [one.rfilename for one in info.siblings or ()]
    small = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL)]
    if need.kind != "weights":
        return sorted(small, key=_decides), []
    weights = [name for name in names if re.fullmatch(r"[^/]+\.safetensors(\.index\.json)?", name)]
    weights = weights or [name for name in names if re.fullmatch(r"pytorch_model[^/]*\.bin(\.index\.json)?", name)]
    if not weights:
        raise FileNotFoundError(f"{need.name} has no *.safetensors and no pytorch_model*.bin")
    return sorted(small, key=_decides), weights


def _decides(name: str) -> int:
    return next((index for index, pattern in enumerate(_VOCABULARIES, 1) if fnmatch.fnmatch(name, pattern)), 0)


def _weights_are_whole(files: Path) -> bool:
    """Return whether all shards exist that an index, or a shard's name ("-00001-of-00004"), announces."""
    for name in _INDEXES:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such index: names of shards decide
            shards = set(json.loads((files / name).read_text(encoding="utf-8"))["weight_map"].values())
            return all((files / shard).is_file() for shard in shards)
    found = [one.name for pattern in ("*.safetensors", "pytorch_model*.bin") for one in files.glob(pattern)]
    counts = [int(match[1]) for one in found if (match := re.search(r"-of-(\d+)\.", one))]
    return bool(found) and len(found) >= max(counts, default=1)


def _look_at_data(need: Need) -> Optional[bool]:
    """Return True if the data loads as training will load it: directory names in the cache do not show enough."""
    if not any((folder := resource(need).folders[0]).glob("*/*/*")) and not folder.is_dir():
        return None
    from megatron.bridge.data.sources.hf import load_hf_dataset_source

    try:
        load_hf_dataset_source(need.source)
    except Exception:  # not cached, or only in part; a wrong request fails when the hub is asked
        return None
    return True


def _of_tokenizer(config: Any) -> Iterator[Need]:
    section = getattr(config, "tokenizer", None)
    name = getattr(section, "tokenizer_model", None)
    if getattr(section, "tokenizer_type", None) in _TOKENIZERS and is_hub_name(name):
        revision = (getattr(section, "hf_tokenizer_kwargs", None) or {}).get("revision")
        yield Need("tokenizer", str(name), revision)
    processor = getattr(getattr(config, "dataset", None), "hf_processor_path", None)
    if is_hub_name(processor):
        yield Need("tokenizer", str(processor))


def _of_weights(config: Any) -> Iterator[Need]:
    """Yield the named weights, else those of the model whose architecture the recipe took (hf_path)."""
    section = getattr(config, "checkpoint", None)
    if getattr(section, "load", None) is not None and getattr(config, "peft", None) is None:
        return  # the run's own checkpoint has them all
    named = getattr(section, "pretrained_checkpoint", None)
    name = named or hub.overriding_model()
    if is_hub_name(name):
        yield Need("weights", str(name), section=section if named else None)


def _of_data(dataset: Any) -> Iterator[Need]:
    sources = [one for name in _SOURCES if hasattr(one := getattr(dataset, name, None), "path_or_dataset")]
    if not sources or _is_written(dataset):
        return
    from megatron.bridge.data.sources.hf import resolve_hf_dataset_source

    for source in sources:
        resolved = resolve_hf_dataset_source(source)
        if is_hub_name(resolved.path_or_dataset) and "/" in str(resolved.path_or_dataset):
            yield Need("data", str(resolved.path_or_dataset), None, resolved)


def _is_written(dataset: Any) -> bool:
    """Return whether Bridge has already written its own files of the data and will read those."""
    if not hasattr(dataset, "hf_rewrite") or dataset.hf_rewrite:
        return False
    from megatron.bridge.data.builders.gpt_sft import resolve_gpt_sft_dataset_root

    root = Path(resolve_gpt_sft_dataset_root(dataset))
    wanted = ("training", *(("validation",) if dataset.do_validation else ()), *(("test",) if dataset.do_test else ()))
    return all((root / f"{name}.jsonl").is_file() for name in wanted)
