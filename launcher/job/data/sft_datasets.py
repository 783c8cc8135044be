"""Data sets of samples for fine-tuning, as Megatron Bridge's configurations."""

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ...contract import data_request
from ..config import notes, sections
from ..errors import UserError
from . import data_files

_SOURCE = (
    *("dataset_root", "hf_dataset", "hf_validation_dataset", "hf_test_dataset", "hf_output_root"),
    *("hf_validation_proportion", "preprocessing", "do_validation", "do_test"),
)
"""Fields of a recipe's data set that name what it reads; the others are kept."""

LOADER_FIELDS = ("num_workers", "pin_memory", "persistent_workers")

_OF_PAIRS = ("gsm8k", "openmathinstruct2", "squad")
"""Bridge's names for data sets on the hub whose samples are a prompt and its answer, not a conversation."""


def dataset(config: Any, kind: str, request: data_request.DataRequest, columns: Sequence[str], where: str) -> Any:
    """Return the configuration for `kind` (lines, saved, hub), with the recipe's own values beside its source.

    The result is a GPTSFTDatasetConfig, or a DirectHFSFTDatasetConfig where the recipe has one (models of images and
    sound). Raises UserError.
    """
    from megatron.bridge.data.builders import DirectHFSFTDatasetConfig, GPTSFTDatasetConfig

    held = config.dataset
    direct = isinstance(held, DirectHFSFTDatasetConfig)
    name = request.paths[0]
    files = data_files.by_split(Path(name), kind, where) if kind != "hub" else {}
    more = _validation(files)
    if kind == "lines" and not direct:
        more |= {"dataset_root": _root(Path(name), files, where)}
    else:
        source, evaluates = _source(kind, request, files)
        more |= {"source" if direct else "hf_dataset": source, **({"do_validation": True} if evaluates else {})}
        more |= {} if direct else {"hf_output_root": derived("samples", f"{where} {columns}")}
    known = data_files.columns(files["training"][0], where) if files else None
    more["preprocessing"] = _preprocessing(known, columns, name, where)
    if not more["do_validation"]:
        notes.add(f"{where}: no validation split is known, so nothing is evaluated")
    if direct:
        return dataclasses.replace(held, **more, validation_source=None, test_source=None)
    if isinstance(held, GPTSFTDatasetConfig):
        own = sections.shared_values(held, GPTSFTDatasetConfig, without=_SOURCE)
    else:
        own = {
            **sections.shared_values(held, GPTSFTDatasetConfig, only=LOADER_FIELDS),
            "seed": getattr(held, "random_seed", None) or 1234,
        }
    return GPTSFTDatasetConfig(**{**own, "seq_length": length(config), **more})


def length(config: Any) -> int:
    """Return the sequence length of the recipe, in tokens."""
    found = getattr(config.dataset, "seq_length", None) or getattr(config.model, "seq_length", None)
    return int(found or 4096)


def derived(name: str, source: str) -> Optional[str]:
    """Return a directory of the run for files made from `source`, one for each source; None outside a run."""
    run = os.environ.get("LAUNCHER_RUN_DIR")
    return str(Path(run) / "data" / f"{name}-{zlib.crc32(source.encode()):08x}") if run else None


def _validation(files: dict[str, list[Path]]) -> dict[str, Any]:
    return {"do_validation": "validation" in files, "do_test": "test" in files}


def _root(path: Path, files: dict[str, list[Path]], where: str) -> str:
    """Return a directory that holds training.jsonl, as Bridge needs; files of other names are linked into a new one."""
    own = all(paths == [path / f"{split}.jsonl"] for split, paths in files.items())
    target = derived("samples", where)
    if target is None or (own and os.access(path, os.W_OK)):
        return str(path)
    Path(target).mkdir(parents=True, exist_ok=True)
    for split, (file, *_) in files.items():
        with contextlib.suppress(FileExistsError):  # another rank made it, or the attempt before
            (Path(target) / f"{split}.jsonl").symlink_to(file.absolute())
    return target


def _source(kind: str, request: data_request.DataRequest, files: dict[str, list[Path]]) -> tuple[Any, bool]:
    """Return Bridge's description of what `datasets` loads, and whether it is known to have a validation split."""
    from megatron.bridge.data.builders import HFDatasetSourceConfig
    from megatron.bridge.data.sources.hf import hf_dataset_supports_split

    name = request.paths[0]
    if kind == "hub":
        named = HFDatasetSourceConfig(dataset_name=name)
        with contextlib.suppress(ValueError):  # not one of Bridge's own names
            named.validate()
            return named, hf_dataset_supports_split(named, "validation")
        return HFDatasetSourceConfig(path_or_dataset=name, subset=request.subset), False
    form = {".jsonl": "json", ".json": "json"}.get(files["training"][0].suffix, files["training"][0].suffix[1:])
    names = {"training": "train"}
    paths = {names.get(split, split): [str(one) for one in some] for split, some in files.items()}
    return HFDatasetSourceConfig(path_or_dataset=form, split="train", load_kwargs={"data_files": paths}), False


def _preprocessing(known: Optional[Sequence[str]], columns: Sequence[str], name: str, where: str) -> Any:
    """Return how a sample becomes tokens: prompt and completion, or a conversation in the tokenizer's template."""
    from megatron.bridge.data.builders import ChatSFTPreprocessingConfig, PromptCompletionSFTPreprocessingConfig

    if known is not None:
        missing = [one for one in columns if one not in known]
        if missing:
            raise UserError(f"there is no column {missing[0]!r}; the columns are {', '.join(known)}", where=where)
        columns = columns or _recognised(known, where)
    elif name in _OF_PAIRS:
        columns = columns or ("prompt", "completion")
    if len(columns) == 2:
        # A blank between both, as in Bridge's own recipes, which tokenize them separately.
        return PromptCompletionSFTPreprocessingConfig(
            prompt_column=columns[0], completion_column=columns[1], separator=" "
        )
    if columns and columns[0] not in data_request.CONVERSATIONS:
        names = ", ".join(data_request.CONVERSATIONS)
        raise UserError(f"the column of a conversation must be one of {names}, not {columns[0]!r}", where=where)
    return ChatSFTPreprocessingConfig()


def _recognised(names: Sequence[str], where: str) -> Sequence[str]:
    for pair in data_request.PAIRS:
        if all(one in names for one in pair):
            return pair
    for one in data_request.CONVERSATIONS:
        if one in names:
            return (one,)
    raise UserError(
        f"none of the samples' columns ({', '.join(names)}) is known to hold a prompt or a conversation",
        where=where,
        hint="name the columns: data_columns=PROMPT,COMPLETION",
    )
