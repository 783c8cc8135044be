"""What training will read of Hugging Face's hub, as its configuration says: is it here, and how it is fetched.

Files are fetched with huggingface_hub, which resumes what breaks off and shows no file before it is whole. Those that
tell whether a thing is here come last: a process that is killed between two files leaves a thing that is not here.
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

from ..model import hub
from . import explain, offline
from .shared_download import Thing

_TOKENIZERS = ("HuggingFaceTokenizer", "SFTTokenizer", "MultimodalTokenizer")
_SOURCES = ("source", "validation_source", "test_source", "hf_dataset", "hf_validation_dataset", "hf_test_dataset")
"""Fields of Bridge 0.6.2's data set configurations that hold an HFDatasetSourceConfig."""

_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt", "tokenizer.json")
"""The first name last: of each of them a tokenizer can be made, of the last one without the others."""
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
_WAITS_S = (1.0, 3.0, 9.0)
"""Before another attempt, where the library itself does not make one (it does for each file, not for their list)."""


@dataclass(frozen=True)
class Need:
    """One thing of the hub: `kind` is tokenizer, weights or data; `source` is Bridge's own description of data."""

    kind: str
    name: str
    revision: Optional[str] = None
    source: Any = field(default=None, compare=False)
    section: Any = field(default=None, compare=False)

    @property
    def title(self) -> str:
        """As sentences call it."""
        words = {"tokenizer": "tokenizer of ", "weights": "weights of ", "data": "data set "}
        return f"the {words[self.kind]}{self.name}{f' at {self.revision}' if self.revision else ''}"


def of_config(config: Any, init: Optional[str] = None) -> tuple[Need, ...]:
    """All that is named as the hub names it and is no file or directory here; `init` is the user's --init."""
    weights = () if init == "random" else _of_weights(config)
    found = [*_of_tokenizer(config), *weights, *_of_data(getattr(config, "dataset", None))]
    return tuple(dict.fromkeys(found))


def unknown(config: Any) -> Optional[str]:
    """A field of the data that names something of a hub which is not understood here: then nobody may be cut off."""
    dataset = getattr(config, "dataset", None)
    if dataset is None:
        return None
    if type(dataset).__name__ == "HFDatasetConfig":  # before Bridge 0.4: a builder with a cache of its own
        return f"dataset.dataset_name={dataset.dataset_name}"
    for name, value in vars(dataset).items():
        known = name in ("hf_processor_path", "hf_output_root")
        if name.startswith(("hf_", "processor")) and not known and isinstance(value, str) and is_hub_name(value):
            return f"dataset.{name}={value}"
    return None


def is_hub_name(text: Any) -> bool:
    """`owner/name` or `name`: no path, and nothing of that name here."""
    return isinstance(text, str) and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text)) and not Path(text).exists()


def directory(need: Need) -> Path:
    """The cache that holds it."""
    if need.kind == "data":
        from importlib import import_module

        return Path(str(import_module("datasets.config").HF_DATASETS_CACHE)).expanduser()
    return hub_cache()


def hub_cache() -> Path:
    """Hugging Face's hub cache, as its library sees it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def thing(need: Need) -> Thing:
    """The same for turn.py."""
    text = json.dumps([need.kind, need.name, need.revision, repr(need.source)])
    folders = [repository(need.name)]
    if need.kind == "data":
        owner, _, name = need.name.rpartition("/")
        folders = [directory(need) / f"{owner}___{name}".lstrip("_"), repository(need.name, "datasets")]
    return Thing(hashlib.sha256(text.encode()).hexdigest()[:20], need.title, tuple(folders))


def repository(name: str, kind: str = "models") -> Path:
    """Where the cache keeps a repository."""
    return hub_cache() / f"{kind}--{name.replace('/', '--')}"


def snapshot(name: str, revision: Optional[str]) -> Optional[Path]:
    """The files of a model as the cache has them, complete or not; None where it has none."""
    home, commit = repository(name), revision or "main"
    if not re.fullmatch("[0-9a-f]{40}", commit):
        try:
            commit = (home / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    found = home / "snapshots" / commit
    return found if found.is_dir() else None


def look(need: Need) -> Optional[bool]:
    """True where all of it is in the cache, else None."""
    if need.kind == "data":
        return _look_at_data(need)
    files = snapshot(need.name, need.revision)
    if files is None:
        return None
    if need.kind == "tokenizer":
        return any(any(files.glob(pattern)) for pattern in _VOCABULARIES) or None
    return ((files / "config.json").is_file() and _weights_are_whole(files)) or None


def download(need: Need) -> bool:
    """Fetch it from the hub. Raises HubError, one sentence, where that cannot be done."""
    for wait in (*_WAITS_S, None):
        try:
            _download(need)
            break
        except Exception as error:
            if wait is None or not explain.is_passing(error):
                raise explain.explained(error, need.title) from error
            time.sleep(max(wait, explain.wait_s(error)))
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
    """Bytes of all its files on the hub, which is asked; None where that is not known before."""
    if need.kind == "data":
        return None
    from huggingface_hub import HfApi

    try:
        with offline.lifted():
            info = HfApi().model_info(need.name, revision=need.revision, files_metadata=True)
        wanted = [name for names in _wanted(need, info) for name in names]
    except Exception:  # what is wrong will be told by the download
        return None
    return sum(one.size or 0 for one in info.siblings or () if one.rfilename in wanted)


def _wanted(need: Need, info: Any) -> tuple[list[str], list[str]]:
    """Names of the files to fetch: small ones in their order, then those of the weights."""
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
    """All shards that an index, or the name of one of them ("-00001-of-00004"), says there are."""
    for name in _INDEXES:
        with contextlib.suppress(OSError, ValueError, KeyError):
            shards = set(json.loads((files / name).read_text(encoding="utf-8"))["weight_map"].values())
            return all((files / shard).is_file() for shard in shards)
    found = [one.name for pattern in ("*.safetensors", "pytorch_model*.bin") for one in files.glob(pattern)]
    counts = [int(match[1]) for one in found if (match := re.search(r"-of-(\d+)\.", one))]
    return bool(found) and len(found) >= max(counts, default=1)


def _look_at_data(need: Need) -> Optional[bool]:
    """Load it as training will: what can be told from the names of the cache's directories is not enough."""
    if not any((folder := thing(need).folders[0]).glob("*/*/*")) and not folder.is_dir():
        return None
    from megatron.bridge.data.sources.hf import load_hf_dataset_source

    try:
        load_hf_dataset_source(need.source)
    except Exception:  # not in the cache, or not this part of it: the hub will tell what is wrong with the request
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
    """Those that are named, else of the model whose architecture the recipe took (hf_path); see weights.py."""
    section = getattr(config, "checkpoint", None)
    if getattr(section, "load", None) is not None and getattr(config, "peft", None) is None:
        return  # the run's own checkpoint has them all
    named = getattr(section, "pretrained_checkpoint", None)
    name = named or hub.replaced_by()
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
    """Whether Bridge has made its own files of the data before, and reads those."""
    if not hasattr(dataset, "hf_rewrite") or dataset.hf_rewrite:
        return False
    from megatron.bridge.data.builders.gpt_sft import resolve_gpt_sft_dataset_root

    root = Path(resolve_gpt_sft_dataset_root(dataset))
    wanted = ("training", *(("validation",) if dataset.do_validation else ()), *(("test",) if dataset.do_test else ()))
    return all((root / f"{name}.jsonl").is_file() for name in wanted)
