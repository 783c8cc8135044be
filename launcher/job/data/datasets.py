"""`data=` and `tokenizer=`: the Megatron Bridge data set that a request asks for, in place of the recipe's own.

The forms of `data=` are in contract/data_request.py. The recipe's lengths, seeds, splits, workers and packing stay. The
classes are those of Bridge 0.6 (megatron/bridge/data/builders); an older release is refused.

Derived files (an index of lines, packed samples, rows of a Hugging Face data set as JSONL) go to `data/` of the run
directory. Bridge itself writes some files beside a training.jsonl, where later runs find them.
"""

import importlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from ...contract import data_request, values
from ..config import notes, sections
from ..errors import UserError
from . import data_files, sft_datasets

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def use_tokenizer(config: Any, name: str) -> None:
    """Use the tokenizer `name`, a directory or a name on the hub. Raises UserError."""
    path = Path(name)
    if path.is_dir() and not _has_tokenizer(path):
        raise UserError(
            f"the directory {name} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)}", where=f"tokenizer={name}"
        )
    config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", name
    config.tokenizer.vocab_size = None  # only a NullTokenizer needs it
    if getattr(config.tokenizer, "hf_tokenizer_kwargs", None):
        config.tokenizer.hf_tokenizer_kwargs.pop("revision", None)  # that of the recipe's tokenizer


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
            raise UserError(
                "data_columns= names columns of samples, but files of token ids have no columns", where=where
            )
        _of_token_ids(config, request, where) if kind == "indexed" else _mock(config, given)
        return
    if "tokenizer" not in given and _has_tokenizer(Path(given.get("hf_path", "/nowhere"))):
        use_tokenizer(config, given["hf_path"])
    has_images = hasattr(config.dataset, "hf_processor_path")
    if not has_images:
        _require_tokenizer(config, where)
    config.dataset = sft_datasets.dataset(config, kind, request, columns, where)
    if has_images:
        config.dataset.hf_processor_path = _processor(config.dataset, given)


def _is_plain(dataset: Any) -> bool:
    """Return whether the data set already reads token ids, in any release."""
    from megatron.bridge.training.config import GPTDatasetConfig

    return isinstance(dataset, GPTDatasetConfig) and not type(dataset).__name__.startswith("Mock")


def _require_builders(where: str) -> None:
    try:
        builders: Any = importlib.import_module("megatron.bridge.data.builders")
    except ImportError:
        builders = None
    if not hasattr(builders, "GPTSFTDatasetConfig"):
        raise UserError(
            f"data= needs Megatron Bridge 0.6 or later; this is {version('megatron-bridge')}",
            where=where,
            hint="set it in the recipe, or by overrides: 'dataset.blend=[[PREFIX],null]', dataset.dataset_root=DIR",
        )


def _kind(request: data_request.DataRequest, where: str) -> str:
    """Return mock, indexed, lines (JSONL), saved (a directory for `datasets`) or hub; for a path the disk decides."""
    if request.kind == "mock" or (request.kind == "hub" and not Path(request.paths[0]).is_dir()):
        return request.kind
    missing = [one for one in request.paths if not (Path(one).exists() or data_request.is_indexed(one))]
    if missing:
        raise UserError(
            f"{missing[0]} does not exist, nor does {missing[0]}.bin with {missing[0]}.idx",
            where=where,
            hint=f"data= takes {data_request.FORMS}; give paths as a compute node has_images them",
        )
    if all(data_request.is_indexed(one) for one in request.paths):
        return "indexed"
    if len(request.paths) > 1 or request.weights:
        one = next(one for one in request.paths if not data_request.is_indexed(one))
        raise UserError(f"a blend consists of .bin and .idx files, but {one} is not such a pair", where=where)
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
        own = sections.shared_values(held, MockVLMSFTDatasetConfig, without=("hf_processor_path", "dataloader_type"))
        config.dataset = MockVLMSFTDatasetConfig(hf_processor_path=_processor(held, given), **own)
        return
    _token_ids(config, blend=None)


def _processor(held: Any, given: Mapping[str, str]) -> Any:
    """Return where a vision-language model's processor, which includes the tokenizer, is read from."""
    return given.get("tokenizer") or given.get("hf_path") or held.hf_processor_path


def _of_token_ids(config: Any, request: data_request.DataRequest, where: str) -> None:
    """Use Megatron's own files; its loader takes the paths and the weights of a blend separately."""
    weights = None if request.weights is None else list(request.weights)
    _token_ids(config, blend=(list(request.paths), weights))
    held = config.dataset
    if held.path_to_cache is None and not all(os.access(Path(one).parent, os.W_OK) for one in request.paths):
        held.path_to_cache = sft_datasets.derived("indices", where)
    if config.tokenizer.tokenizer_type == "NullTokenizer":
        largest = max(data_files.largest_id(prefix) for prefix in request.paths)
        notes.add(f"{where}: ids up to {largest} were seen; NullTokenizer does not check them, tokenizer=DIR would")


def _token_ids(config: Any, blend: Optional[tuple[list[str], Optional[list[float]]]]) -> None:
    """Set a GPTDatasetConfig with that blend (None: mock data), based on the recipe's where it has one."""
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
            **sections.shared_values(held, GPTDatasetConfig, only=sft_datasets.LOADER_FIELDS),
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
            f"text needs a tokenizer, but this recipe's is {tokenizer.tokenizer_type or 'not set'}",
            where=where,
            hint="add tokenizer=DIR_OR_NAME, or hf_path=DIR for a model that has its tokenizer",
        )


def _has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in _TOKENIZER_FILES)
