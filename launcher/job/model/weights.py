"""Where a run's initial weights come from, decided in one place.

| what is said | weights |
| --- | --- |
| `--init random` | none: Megatron initialises the model, of a fine-tuning recipe too |
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

from ...contract.hub import is_hub_name
from ..config import notes
from ..errors import UserError
from . import checkpoints, hf_files, hub

INIT = ("pretrained", "random")
RANDOM = "`--init random` trains the same architecture from random weights"

_CONVERSION = "megatron.bridge.models.conversion.model_bridge"
_LEFT_OUT = ("Can't find", "No mapping found")
_SIZES = {"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "num_attention_heads": "num_attention_heads"}


@dataclass(frozen=True)
class Source:
    """Weights to begin with: `place` as it was named, `path` what is read (None: the hub has to give it first)."""

    place: str
    path: Optional[Path]
    kind: str


def choose(config: Any, init: Optional[str], *, job: bool = True, look: bool = True) -> None:
    """Set `config.checkpoint.pretrained_checkpoint` and note which weights will be read, and from where.

    `init` is the user's --init. `job` is False in a check, which loads nothing. With `look` the files
    themselves are looked at (one rank is enough). Raises UserError for weights that are not there or do not fit.
    """
    section = config.checkpoint
    asked = hub.replaced_by()
    if init == "random":
        _random(config, section.pretrained_checkpoint or asked)
    elif job and section.load is not None and config.peft is None:
        # The run's own checkpoint has them all; the place that they once came from may be gone.
        if section.pretrained_checkpoint or asked:
            _keep_vocabulary(config, _saved_vocabulary(Path(section.load)))
        section.pretrained_checkpoint = None
        notes.add(f"weights: those of the checkpoint {section.load}")
    elif section.pretrained_checkpoint is None and asked is None:
        _nothing_named(config, init)
    else:
        named = section.pretrained_checkpoint
        source = _source(str(named or asked), "checkpoint.pretrained_checkpoint" if named else "hf_path")
        _keep_vocabulary(config, _vocabulary(source))
        if look and source.path is not None:
            _look(source, config)
        # A name of the hub is fetched, and replaced by its directory, by fetch.fetch_all(). In a check nothing is
        # loaded, and Bridge only asks whether something of that name is there.
        section.pretrained_checkpoint = str(source.path or (source.place if job else Path.cwd()))
        _note(source, section.load)


@contextlib.contextmanager
def complete(where: str) -> Iterator[None]:
    """Inside the block a tensor that Bridge does not find raises UserError.

    Bridge 0.6.2 warns of it in its log and leaves the parameter as it was initialised (build_conversion_tasks).
    """
    logger = logging.getLogger(_CONVERSION)

    def refuse(entry: logging.LogRecord) -> bool:
        text = entry.getMessage()
        if any(words in text for words in _LEFT_OUT):
            raise UserError(
                f"the weights lack a tensor that the model has: {text.removeprefix('WARNING: ')}",
                where=where,
                hint="is it the same architecture? if so, copy or download the model again",
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
    """Whether a recipe trains adapters, or on samples of prompts and answers."""
    kind = type(config.dataset).__name__
    return config.peft is not None or "SFT" in kind or "Finetuning" in kind


def _random(config: Any, instead_of: Optional[str]) -> None:
    if config.peft is not None:
        raise UserError(
            "--init random: this recipe trains adapters (peft), which mean nothing beside random weights",
            where="--init",
            hint="name the model's weights, or train all of it: peft=null",
        )
    config.checkpoint.pretrained_checkpoint = None
    what = "this recipe fine-tunes, and its model" if is_fine_tuning(config) else "the model"
    notes.add(f"weights: {what} starts from random ones (--init random)" + _in_place_of(instead_of))


def _in_place_of(place: Optional[str]) -> str:
    return f", not from {place}" if place else ""


def _nothing_named(config: Any, init: Optional[str]) -> None:
    name_them = "name them: hf_path=DIR where the recipe takes it, or checkpoint.pretrained_checkpoint=DIR"
    if init == "pretrained":
        raise UserError("--init pretrained: nothing names weights to start from", where="--init", hint=name_them)
    if is_fine_tuning(config) and "Mock" not in type(config.dataset).__name__:
        raise UserError(
            "this recipe fine-tunes, and nothing names the weights to start from",
            where="checkpoint.pretrained_checkpoint",
            hint=f"{name_them}; {RANDOM}",
        )
    notes.add("weights: random, as nothing names others")


def _source(place: str, key: str) -> Source:
    path = Path(place)
    if "://" in place:
        return Source(place, path, "remote")
    if path.is_dir():
        return Source(place, path, _kind(path, key))
    if not is_hub_name(place):
        raise UserError(f"{key}={place}: there is no such directory", where=key, hint=RANDOM)
    own = hub.snapshot(place)
    whole = own is not None and hf_files.holds_weights(own) and not hf_files.missing(own)
    return Source(place, own if whole else None, "huggingface")


def _kind(path: Path, key: str) -> str:
    if hf_files.holds_weights(path):
        return "huggingface"
    if checkpoints.holds_checkpoint(path) or checkpoints.iterations(path):
        return "megatron"
    only = "only an architecture" if (path / "config.json").is_file() else "neither a model nor a checkpoint"
    if any(path.glob("pytorch_model*.bin")):
        only = "weights as pytorch_model.bin, and safetensors are read"
    raise UserError(f"{key}={path} has no weights: {only}", where=key, hint=RANDOM)


def _look(source: Source, config: Any) -> None:
    assert source.path is not None  # noqa: S101 the caller asked
    if source.kind == "megatron":
        _whole_checkpoint(source.path)
    elif source.kind == "huggingface":
        _require_reader()
        hf_files.read_weights(source.path)
        _same_sizes(source, config)


def _whole_checkpoint(path: Path) -> None:
    is_one = re.fullmatch(r"iter_\d+", path.name) or (path / ".metadata").is_file()
    if checkpoints.is_complete(path) if is_one else checkpoints.newest_complete(path) is not None:
        return
    raise UserError(
        f"no checkpoint in {path} is whole: a shard is missing or shorter than it was written",
        where="checkpoint.pretrained_checkpoint",
    )


def _require_reader() -> None:
    from megatron.bridge.training.utils import checkpoint_utils

    if not hasattr(checkpoint_utils, "is_hf_checkpoint_dir"):
        raise UserError(
            "this Megatron Bridge reads weights from Megatron checkpoints alone: 0.6.0 is the first that reads those "
            "of Hugging Face",
            hint=f"convert them first: launcher convert import HF_DIR MEGATRON_DIR; {RANDOM}",
        )


def _same_sizes(source: Source, config: Any) -> None:
    """Bridge would read of a deeper model as many layers as there are, and say nothing."""
    assert source.path is not None  # noqa: S101 the caller asked
    theirs = hf_files.read_text_config(source.path)
    model = getattr(config.model, "transformer", config.model)
    apart = [
        f"{mine} is {getattr(model, mine)} here and {theirs[other]} there"
        for mine, other in _SIZES.items()
        if isinstance(theirs.get(other), int)
        and isinstance(getattr(model, mine, None), int)
        and getattr(model, mine) != theirs[other]
    ]
    if apart:
        raise UserError(
            f"the weights of {source.place} do not fit this model: {'; '.join(apart)}", where="model", hint=RANDOM
        )


def _keep_vocabulary(config: Any, tokens: Optional[int]) -> None:
    """Make the model's vocabulary that of its weights.

    Bridge's pretraining recipes have `tokenizer.use_tokenizer_vocab_size`, and a tokenizer mostly knows fewer tokens
    than a model has rows: those of Hugging Face would not fit, and of a checkpoint's embedding a part would be read.
    """
    follows = bool(getattr(config.tokenizer, "use_tokenizer_vocab_size", False))
    now = getattr(config.model, "vocab_size", None)
    if tokens is None or (now == tokens and not follows):
        return
    if now is not None and now != tokens and not follows:
        raise UserError(
            f"the weights have {tokens} tokens, and model.vocab_size is {now}", where="model.vocab_size", hint=RANDOM
        )
    config.model.vocab_size = tokens
    if follows:
        config.tokenizer.use_tokenizer_vocab_size = False
        notes.add(f"model.vocab_size={tokens}: that of the weights, not the tokenizer's")


def _vocabulary(source: Source) -> Optional[int]:
    if source.kind == "megatron" and source.path is not None:
        return _saved_vocabulary(source.path)
    # Of a model that the hub still has to give, the architecture is here already.
    path = source.path or hub.snapshot(source.place)
    if source.kind != "huggingface" or path is None or not (path / "config.json").is_file():
        return None
    tokens = hf_files.read_text_config(path).get("vocab_size")
    return tokens if isinstance(tokens, int) else None


def _saved_vocabulary(place: Path) -> Optional[int]:
    """`model.vocab_size` of the newest checkpoint in `place`, which may be an iteration's own directory."""
    newest = [path for _, path in checkpoints.iterations(place)][-1:] or [place]
    try:
        text = (newest[0] / "run_config.yaml").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^model:\n(?:(?:[ -].*)?\n)*?  vocab_size: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _note(source: Source, load: Optional[str]) -> None:
    what = {"huggingface": "the Hugging Face model", "megatron": "the Megatron checkpoint"}.get(source.kind, "")
    where = f", from {source.path}" if source.path is not None and str(source.path) != source.place else ""
    later = ", from the hub (the Hugging Face cache does not hold all of them)" if source.path is None else ""
    adapters = f", and adapters of {load}" if load else ""
    notes.add(f"weights: those of {what} {source.place}".replace("  ", " ") + where + later + adapters)
