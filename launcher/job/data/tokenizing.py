"""A Hugging Face tokenizer of a directory, and what its ids depend on."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..errors import UserError, first_line

_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)
_ESSENTIAL = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with the numbers that a file of ids depends on."""

    model: Any
    """transformers' object."""
    path: str
    sha256: str
    """Over the names and contents of its files."""
    vocabulary: int
    """One more than the largest id."""
    size: int
    """Number of tokens, from which Megatron chooses the type of the ids."""
    eod: Optional[int]
    """The id that ends a document, as Megatron-Core chooses it: that of the end of a sequence, else the separator's."""

    def encode(self, texts: Sequence[str], *, special_tokens: bool) -> "list[list[int]]":
        """Return the ids of each text."""
        found: list[list[int]] = self.model(
            list(texts),
            add_special_tokens=special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a document may be longer than the model's context
        )["input_ids"]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; those beyond the vocabulary are shown as numbers."""
        if all(0 <= one < self.vocabulary for one in ids):
            return str(self.model.decode(list(ids)))
        return " ".join(str(self.model.decode([one])) if 0 <= one < self.vocabulary else f"<{one}?>" for one in ids)


def load(directory: Path) -> Tokenizer:
    """Return the tokenizer of a directory. Raises UserError where there is none, or it cannot be loaded."""
    if not directory.is_dir():
        raise UserError(
            "there is no such directory", where=f"--tokenizer {directory}", hint="name a local directory with its files"
        )
    if not any((directory / name).is_file() for name in _ESSENTIAL):
        raise UserError(
            f"this directory has no tokenizer: none of {', '.join(_ESSENTIAL)}", where=f"--tokenizer {directory}"
        )
    # A shard has a process of its own; threads of the tokenizer would compete with the other shards, and do not
    # survive a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import transformers

    transformers.logging.set_verbosity_error()
    try:
        model = transformers.AutoTokenizer.from_pretrained(
            str(directory),
            local_files_only=True,
            trust_remote_code=False,  # by default transformers asks on a terminal
        )
        vocabulary = model.get_vocab()
    except Exception as error:
        raise UserError(
            f"the tokenizer cannot be loaded: {type(error).__name__}: {first_line(error)}",
            where=f"--tokenizer {directory}",
        ) from error
    if not vocabulary:
        raise UserError("the tokenizer has no tokens", where=f"--tokenizer {directory}")
    end = model.eos_token_id if model.eos_token_id is not None else model.sep_token_id
    size = len(model)
    return Tokenizer(model, str(directory), digest(directory), max(size, max(vocabulary.values()) + 1), size, end)


def digest(directory: Path) -> str:
    """Return the sha256 over the names and contents of a tokenizer's files."""
    found = hashlib.sha256()
    for name in _FILES:
        if (directory / name).is_file():
            content = (directory / name).read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
