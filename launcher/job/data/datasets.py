"""`data=` and `tokenizer=`: the data set of Megatron Bridge's that a request means, in place of the recipe's own.

What `data=` can say stands in contract/data_request.py. The recipe's lengths, seeds, splits, workers and packing stay.
Bridge's classes are those of 0.6 (megatron/bridge/data/builders); an older release is refused.

Derived files (an index of lines, packed samples, rows of a Hugging Face data set as JSONL) go below `data/` of the run
directory, except those that Bridge itself writes beside a directory of training.jsonl, where later runs find them.
"""

import importlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from ...contract import data_request, values
from ..config import notes
from ..errors import UserError
from . import data_files, sft_datasets

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def use_tokenizer(config: Any, name: str) -> None:
    """Take the tokenizer of `name`, a directory or a name on the hub."""
    path = Path(name)
    if path.is_dir() and not _has_tokenizer(path):
        raise UserError(
            f"{name} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is in it", where=f"tokenizer={name}"
        )
    config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", name
    config.tokenizer.vocab_size = None  # a NullTokenizer's
    if getattr(config.tokenizer, "hf_tokenizer_kwargs", None):
        config.tokenizer.hf_tokenizer_kwargs.pop("revision", None)  # of the recipe's own


def use(config: Any, given: Mapping[str, str]) -> None:
    """Set `config.dataset` as `given["data"]` asks. Raises UserError."""
    where = f"data={given['data']}"
    try:
        request = data_request.parse(given["data"])
        columns = data_request.columns(given["data_columns"]) if "data_columns" in given else ()
    except values.Refused as error:
        raise UserError(error.message, where=where, hint=error.hint) from None
    kind = _kind(request, where)
    if not (kind in ("mock", "indexed") and _is_plain(config.dataset)):
        _require_builders(where)
    if kind in ("mock", "indexed"):
        if columns:
            raise UserError("data_columns= names columns of samples, and token ids have none", where=where)
        _of_token_ids(config, request, where) if kind == "indexed" else _mock(config, given)
        return
    if "tokenizer" not in given and _has_tokenizer(Path(given.get("hf_path", "/nowhere"))):
        use_tokenizer(config, given["hf_path"])
    sees = hasattr(config.dataset, "hf_processor_path")
    if not sees:
        _require_tokenizer(config, where)
    config.dataset = sft_datasets.dataset(config, kind, request, columns, where)
    if sees:
        config.dataset.hf_processor_path = _processor(config.dataset, given)


def _is_plain(dataset: Any) -> bool:
    """Whether it is already what reads token ids, in any release."""
    from megatron.bridge.training.config import GPTDatasetConfig

    return isinstance(dataset, GPTDatasetConfig) and not type(dataset).__name__.startswith("Mock")


def _require_builders(where: str) -> None:
    try:
        builders: Any = importlib.import_module("megatron.bridge.data.builders")
    except ImportError:
        builders = None
    if not hasattr(builders, "GPTSFTDatasetConfig"):
        raise UserError(
            f"data= needs Megatron Bridge 0.6 or later, and this is {version('megatron-bridge')}",
            where=where,
            hint="say it in the recipe, or by overrides: 'dataset.blend=[[PREFIX],null]', dataset.dataset_root=DIR",
        )


def _kind(request: data_request.DataRequest, where: str) -> str:
    """mock, indexed, lines (JSONL), saved (a directory of Hugging Face's), hub; what is there decides about a path."""
    if request.kind == "mock" or (request.kind == "hub" and not Path(request.paths[0]).is_dir()):
        return request.kind
    missing = [one for one in request.paths if not (Path(one).exists() or data_request.is_indexed(one))]
    if missing:
        raise UserError(
            f"there is no {missing[0]}, nor {missing[0]}.bin with {missing[0]}.idx",
            where=where,
            hint=f"data= takes {data_request.FORMS}; paths are those that a node sees",
        )
    if all(data_request.is_indexed(one) for one in request.paths):
        return "indexed"
    if len(request.paths) > 1 or request.weights:
        one = next(one for one in request.paths if not data_request.is_indexed(one))
        raise UserError(f"a blend is of .bin and .idx files, and {one} is none", where=where)
    path = Path(request.paths[0])
    return "lines" if path.is_file() or data_request.split_files(path) else "saved"


def _mock(config: Any, given: Mapping[str, str]) -> None:
    held = config.dataset
    if _is_plain(held):
        _token_ids(config, blend=None)
        return
    from megatron.bridge.data.builders import DirectHFSFTDatasetConfig, MockVLMSFTDatasetConfig

    if isinstance(held, MockVLMSFTDatasetConfig):
        return
    if isinstance(held, DirectHFSFTDatasetConfig):
        own = sft_datasets.kept(held, MockVLMSFTDatasetConfig, without=("hf_processor_path", "dataloader_type"))
        config.dataset = MockVLMSFTDatasetConfig(hf_processor_path=_processor(held, given), **own)
        return
    _token_ids(config, blend=None)


def _processor(held: Any, given: Mapping[str, str]) -> Any:
    """Where a vision-language model's processor is read from, which has the tokenizer as well."""
    return given.get("tokenizer") or given.get("hf_path") or held.hf_processor_path


def _of_token_ids(config: Any, request: data_request.DataRequest, where: str) -> None:
    """Megatron's own files: the blend as its loader has it, paths and weights apart."""
    weights = None if request.weights is None else list(request.weights)
    _token_ids(config, blend=(list(request.paths), weights))
    held = config.dataset
    if held.path_to_cache is None and not all(os.access(Path(one).parent, os.W_OK) for one in request.paths):
        held.path_to_cache = sft_datasets.derived("indices", where)
    if config.tokenizer.tokenizer_type == "NullTokenizer":
        largest = max(data_files.largest_id(prefix) for prefix in request.paths)
        notes.add(
            f"{where}: ids up to {largest} were seen; NullTokenizer takes them as they are, tokenizer=DIR tells more"
        )


def _token_ids(config: Any, blend: Optional[tuple[list[str], Optional[list[float]]]]) -> None:
    """A GPTDatasetConfig with that blend (None: mock), the recipe's where it has one."""
    from megatron.bridge.training.config import GPTDatasetConfig, MockGPTDatasetConfig

    held = config.dataset
    if not _is_plain(held):
        plain = isinstance(held, MockGPTDatasetConfig)
        config.dataset = GPTDatasetConfig(
            random_seed=getattr(held, "random_seed", None) or getattr(held, "seed", 1234),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            split=held.split if plain else "99,1,0",
            dataloader_type="single",
            seq_length=sft_datasets.length(config),
            **sft_datasets.kept(held, GPTDatasetConfig, only=("num_workers", "pin_memory", "persistent_workers")),
        )
    config.dataset.blend, config.dataset.blend_per_split = blend, None
    if hasattr(config.dataset, "data_path"):
        config.dataset.data_path = None
    evaluates = (getattr(config, "validation", None) or config.train).eval_iters
    if blend is not None and not evaluates:
        config.dataset.split = "1,0,0"


def _require_tokenizer(config: Any, where: str) -> None:
    tokenizer = config.tokenizer
    if tokenizer.tokenizer_type in (None, "NullTokenizer") or not tokenizer.tokenizer_model:
        raise UserError(
            f"text needs a tokenizer, and this recipe has {tokenizer.tokenizer_type or 'none'}",
            where=where,
            hint="add tokenizer=DIR_OR_NAME, or hf_path=DIR with a model and its tokenizer",
        )


def _has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in _TOKENIZER_FILES)
