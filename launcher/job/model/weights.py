"""The source of a run's initial weights, decided in one place.

| given | weights |
| --- | --- |
| `--init random` | none: Megatron initialises the model, for a fine-tuning recipe too |
| `checkpoint.pretrained_checkpoint`, by recipe or override | that Megatron checkpoint or Hugging Face directory |
| `hf_path`, which replaced the recipe's architecture | that model's: its directory, the user's cache, or the hub |
| nothing | none, and a recipe that fine-tunes is refused |

A resumed run loads its own checkpoint; only adapters (peft) need the model that they belong to once more.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...contract import checkpoints
from ...contract.hub import is_hub_name
from ..config import notes
from ..errors import UserError
from . import hf_files, hub

RANDOM = "or train the same architecture from random weights: --init random"

_CONVERSION = "megatron.bridge.models.conversion.model_bridge"
_MISSING_TENSOR = ("Can't find", "No mapping found")
_SIZES = {"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "num_attention_heads": "num_attention_heads"}


@dataclass(frozen=True)
class Source:
    """Initial weights: `name` as the user wrote it, `path` what is read (None: the hub must provide it first)."""

    name: str
    path: Optional[Path]
    kind: str


def choose(config: Any, init: Optional[str], *, job: bool = True, check_files: bool = True) -> None:
    """Set `config.checkpoint.pretrained_checkpoint`, and note which weights will be read and from where.

    `init` is the user's --init. `job` is False in a check, which loads nothing. `check_files` reads the files
    (one rank is enough). Raises UserError for weights that are missing or do not fit.
    """
    section = config.checkpoint
    asked = hub.overriding_model()
    if init == "random":
        _random(config, section.pretrained_checkpoint or asked)
    elif job and section.load is not None and config.peft is None:
        # The run's own checkpoint has all weights; their first source may be gone.
        if section.pretrained_checkpoint or asked:
            _keep_vocabulary(config, _saved_vocabulary(Path(section.load)))
        section.pretrained_checkpoint = None
        notes.add(f"weights: from the checkpoint {section.load}")
    elif section.pretrained_checkpoint is None and asked is None:
        _keep_random(config, init)
    else:
        named = section.pretrained_checkpoint
        source = _source(str(named or asked), "checkpoint.pretrained_checkpoint" if named else "hf_path")
        _keep_vocabulary(config, _vocabulary(source))
        if check_files and source.path is not None:
            _check_files(source, config)
        # fetch.fetch_all() fetches a name on the hub and replaces it by its directory. In a check nothing is
        # loaded, and Bridge only asks whether something of that name is there.
        section.pretrained_checkpoint = str(source.path or (source.name if job else Path.cwd()))
        _note(source, section.load)


@contextlib.contextmanager
def require_all_tensors(where: str) -> Iterator[None]:
    """Raise UserError inside the block for a tensor that Bridge does not find.

    Bridge 0.6.2 only logs a warning and leaves the parameter as it was initialised (build_conversion_tasks).
    """
    logger = logging.getLogger(_CONVERSION)

    def refuse(entry: logging.LogRecord) -> bool:
        text = entry.getMessage()
        if any(words in text for words in _MISSING_TENSOR):
            raise UserError(
                f"the weights lack a tensor of the model: {text.removeprefix('WARNING: ')}",
                where=where,
                hint="check that the architecture is the same; if it is, copy or download the model again",
            )
        return True

    before, disabled = logger.level, logging.root.manager.disable
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
    logging.disable(min(disabled, logging.INFO))
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(before)
        logging.disable(disabled)


def is_fine_tuning(config: Any) -> bool:
    """Return whether a recipe trains adapters, or on samples of prompts and answers."""
    kind = type(config.dataset).__name__
    return config.peft is not None or "SFT" in kind or "Finetuning" in kind


def _random(config: Any, instead_of: Optional[str]) -> None:
    if config.peft is not None:
        raise UserError(
            "--init random: this recipe trains adapters (peft), which are useless on random weights",
            where="--init",
            hint="name the model's weights, or train all weights: peft=null",
        )
    config.checkpoint.pretrained_checkpoint = None
    what = "this recipe fine-tunes, and its model" if is_fine_tuning(config) else "the model"
    notes.add(f"weights: {what} starts from random weights (--init random)" + _in_place_of(instead_of))


def _in_place_of(name: Optional[str]) -> str:
    return f", not from {name}" if name else ""


def _keep_random(config: Any, init: Optional[str]) -> None:
    name_them = "name them: hf_path=DIR if the recipe takes it, or checkpoint.pretrained_checkpoint=DIR"
    if init == "pretrained":
        raise UserError("--init pretrained: no weights to start from are named", where="--init", hint=name_them)
    if is_fine_tuning(config) and "Mock" not in type(config.dataset).__name__:
        raise UserError(
            "this recipe fine-tunes, but no weights to start from are named",
            where="checkpoint.pretrained_checkpoint",
            hint=f"{name_them}; {RANDOM}",
        )
    notes.add("weights: random, as no others are named")


def _source(name: str, key: str) -> Source:
    path = Path(name)
    if "://" in name:
        return Source(name, path, "remote")
    if path.is_dir():
        return Source(name, path, _kind(path, key))
    if not is_hub_name(name):
        raise UserError(f"{key}={name} is not a directory here", where=key, hint=RANDOM)
    own = hub.snapshot(name)
    whole = own is not None and hf_files.holds_weights(own) and not hf_files.missing(own)
    return Source(name, own if whole else None, "huggingface")


def _kind(path: Path, key: str) -> str:
    if hf_files.holds_weights(path):
        return "huggingface"
    if checkpoints.holds_checkpoint(path) or checkpoints.iterations(path):
        return "megatron"
    only = "only an architecture (config.json)" if (path / "config.json").is_file() else "neither model nor checkpoint"
    if any(path.glob("pytorch_model*.bin")):
        only = "weights as pytorch_model.bin, but only safetensors are read"
    raise UserError(f"{key}={path} has no weights that can be read: {only}", where=key, hint=RANDOM)


def _check_files(source: Source, config: Any) -> None:
    assert source.path is not None  # noqa: S101 - the caller checked
    if source.kind == "megatron":
        _check_checkpoint(source.path)
    elif source.kind == "huggingface":
        _require_reader()
        hf_files.read_weights(source.path)
        _check_sizes(source, config)


def _check_checkpoint(path: Path) -> None:
    is_one = re.fullmatch(r"iter_\d+", path.name) or (path / ".metadata").is_file()
    if checkpoints.is_complete(path) if is_one else checkpoints.newest_complete(path) is not None:
        return
    raise UserError(
        f"no checkpoint in {path} is complete: a shard is missing or shorter than it was written",
        where="checkpoint.pretrained_checkpoint",
    )


def _require_reader() -> None:
    from megatron.bridge.training.utils import checkpoint_utils

    if not hasattr(checkpoint_utils, "is_hf_checkpoint_dir"):
        raise UserError(
            "this Megatron Bridge reads weights only from Megatron checkpoints; 0.6.0 is the first release that reads "
            "Hugging Face models",
            hint=f"convert them first: launcher convert import HF_DIR MEGATRON_DIR; {RANDOM}",
        )


def _check_sizes(source: Source, config: Any) -> None:
    """Refuse weights of another size: from a deeper model Bridge would silently read only some layers."""
    assert source.path is not None  # noqa: S101 - the caller checked
    theirs = hf_files.read_text_config(source.path)
    model = getattr(config.model, "transformer", config.model)
    apart = [
        f"{mine} is {getattr(model, mine)} in the model and {theirs[other]} in the weights"
        for mine, other in _SIZES.items()
        if isinstance(theirs.get(other), int)
        and isinstance(getattr(model, mine, None), int)
        and getattr(model, mine) != theirs[other]
    ]
    if apart:
        raise UserError(
            f"the weights of {source.name} do not fit this model: {'; '.join(apart)}", where="model", hint=RANDOM
        )


def _keep_vocabulary(config: Any, tokens: Optional[int]) -> None:
    """Set the model's vocabulary to that of its weights.

    Bridge's pretraining recipes set `tokenizer.use_tokenizer_vocab_size`, and a tokenizer usually knows fewer tokens
    than a model has rows: Hugging Face weights would not fit, and of a checkpoint's embedding only a part would be
    read.
    """
    follows = bool(getattr(config.tokenizer, "use_tokenizer_vocab_size", False))
    now = getattr(config.model, "vocab_size", None)
    if tokens is None or (now == tokens and not follows):
        return
    if now is not None and now != tokens and not follows:
        raise UserError(
            f"the weights have {tokens} tokens, but model.vocab_size is {now}", where="model.vocab_size", hint=RANDOM
        )
    config.model.vocab_size = tokens
    if follows:
        config.tokenizer.use_tokenizer_vocab_size = False
        notes.add(f"model.vocab_size={tokens}: from the weights, not from the tokenizer")


def _vocabulary(source: Source) -> Optional[int]:
    if source.kind == "megatron" and source.path is not None:
        return _saved_vocabulary(source.path)
    # A model whose weights the hub must still provide has its architecture here already.
    path = source.path or hub.snapshot(source.name)
    if source.kind != "huggingface" or path is None or not (path / "config.json").is_file():
        return None
    tokens = hf_files.read_text_config(path).get("vocab_size")
    return tokens if isinstance(tokens, int) else None


def _saved_vocabulary(directory: Path) -> Optional[int]:
    """Return `model.vocab_size` of the newest checkpoint in `directory`, or of that iteration's directory."""
    newest = [path for _, path in checkpoints.iterations(directory)][-1:] or [directory]
    try:
        text = (newest[0] / "run_config.yaml").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^model:\n(?:(?:[ -].*)?\n)*?  vocab_size: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _note(source: Source, load: Optional[str]) -> None:
    what = {"huggingface": "the Hugging Face model", "megatron": "the Megatron checkpoint"}.get(source.kind, "")
    where = f", from {source.path}" if source.path is not None and str(source.path) != source.name else ""
    later = ", from the hub (the Hugging Face cache does not have all of them)" if source.path is None else ""
    adapters = f", and adapters from {load}" if load else ""
    notes.add(f"weights: from {what} {source.name}".replace("  ", " ") + where + later + adapters)
