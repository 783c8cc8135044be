"""The keywords that Megatron Bridge's recipe functions took until 0.3.0, as fields of the configuration they return."""

from collections.abc import Callable, Mapping
from typing import Any

from ...contract.key_aliases import OLDER
from ...contract.recipe_arguments import DATA_KEYWORDS as _DATA
from ...contract.recipe_arguments import FIELDS, KEYWORDS
from ..errors import UserError
from . import notes

_UNSET = ("expert_model_parallel_size", "comm_overlap_config", "tokenizer_model", "dir")
"""Keywords for which None meant the recipe's own value."""


def apply(config: Any, given: Mapping[str, Any]) -> None:
    """Set in `config` what the keywords mean. Raises UserError for one that this model has no field for."""
    wanted = {name: value for name, value in given.items() if not (value is None and name in _UNSET)}
    for name, value in wanted.items():
        if name in FIELDS:
            for field in FIELDS[name]:
                _set(config, field, value, name)
        elif name in _SPECIAL:
            _SPECIAL[name](config, value)
    data = {name: wanted[name] for name in _DATA if name in wanted}
    if data:
        _data(config, data)
    _settle_pipeline(config, wanted)
    _settle_packing(config, wanted)


def _set(config: Any, field: str, value: Any, keyword: str) -> None:
    owner, name = _owner(config, field)
    if not hasattr(owner, name):
        owner, name = _owner(config, OLDER.get(field, field))
    if owner is None or not hasattr(owner, name):
        raise UserError(f"keyword {keyword}={value!r}: this recipe's configuration has no {field}")
    setattr(owner, name, value)


def _owner(config: Any, field: str) -> tuple[Any, str]:
    section, _, name = field.rpartition(".")
    return (getattr(config, section, None) if section else config), name


def _settle_pipeline(config: Any, given: Mapping[str, Any]) -> None:
    """Set the data type that a pipeline sends; drop a layout that was made for other stages."""
    model = config.model
    if getattr(model, "pipeline_model_parallel_size", 1) > 1 and model.pipeline_dtype is None:
        import torch

        model.pipeline_dtype = torch.bfloat16  # the default of these functions
    stages = {"pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size"}
    if stages & given.keys() and "layout" not in given and getattr(model, "pipeline_model_parallel_layout", None):
        model.pipeline_model_parallel_layout = None


def _settle_packing(config: Any, given: Mapping[str, Any]) -> None:
    """Make packed samples of fine-tuning as long as the sequence."""
    found = (getattr(config.dataset, name, None) for name in ("offline_packing_specs", "packed_sequence_specs"))
    packing = next((one for one in found if one is not None), None)
    if "seq_length" in given and packing is not None:
        packing.packed_sequence_size = given["seq_length"]


def _data(config: Any, given: Mapping[str, Any]) -> None:
    from megatron.bridge.recipes.utils import dataset_utils

    if not hasattr(config.dataset, "blend"):
        raise UserError(f"keyword {next(iter(given))}: this recipe's data set has no field `blend`")
    blend, per_split, split = dataset_utils.get_blend_fields_from_data_paths(**given)
    config.dataset.blend, config.dataset.blend_per_split, config.dataset.split = blend, per_split, split


def _null_tokenizer(config: Any, value: bool) -> None:
    tokenizer = config.tokenizer
    if value:
        from megatron.bridge.recipes.utils.tokenizer_utils import DEFAULT_NULL_TOKENIZER_VOCAB_SIZE

        tokenizer.tokenizer_type, tokenizer.tokenizer_model = "NullTokenizer", None
        tokenizer.vocab_size = tokenizer.vocab_size or DEFAULT_NULL_TOKENIZER_VOCAB_SIZE
    else:
        tokenizer.tokenizer_type, tokenizer.vocab_size = "HuggingFaceTokenizer", None
        tokenizer.tokenizer_model = tokenizer.tokenizer_model or getattr(config.model, "hf_model_id", None)


def _tokenizer_model(config: Any, value: str) -> None:
    config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", value


def _deepep(config: Any, value: bool) -> None:
    if value:
        config.model.moe_token_dispatcher_type, config.model.moe_flex_dispatcher_backend = "flex", "deepep"
        # The overlap would compute while DeepEP's streams occupy all copy engines of the GPU.
        config.model.moe_shared_expert_overlap = False


def _recompute(config: Any, value: bool) -> None:
    granularity = ("full", "uniform", 1) if value else (None, None, None)
    model = config.model
    model.recompute_granularity, model.recompute_method, model.recompute_num_layers = granularity


def _placed_by_the_run(_config: Any, value: Any) -> None:
    """Note that `dir` and `name` have no effect: files go into the run directory (paths.place_files)."""
    notes.add(f"{value!r} as directory or name of the run has no effect: files go into the run directory")


_SPECIAL: Mapping[str, Callable[[Any, Any], None]] = {
    "use_null_tokenizer": _null_tokenizer,
    "tokenizer_model": _tokenizer_model,
    "enable_deepep": _deepep,
    "enable_recompute": _recompute,
    "dir": _placed_by_the_run,
    "name": _placed_by_the_run,
}

KNOWN = KEYWORDS
"""All supported keywords: FIELDS, _DATA, those of _SPECIAL, and hf_path."""
