"""A model for the tests' hub: an architecture and a real tokenizer, no weights; and a recipe that reads it."""

import json
from importlib import import_module
from typing import Any

RECIPE = """
from transformers import AutoConfig
from vanilla_gpt_pretrain import configure as vanilla

def configure():
    cfg = vanilla()
    cfg.model.hidden_size = AutoConfig.from_pretrained("org/tiny").hidden_size
    cfg.tokenizer.tokenizer_type = "HuggingFaceTokenizer"
    cfg.tokenizer.tokenizer_model = "org/tiny"
    cfg.tokenizer.vocab_size = None
    cfg.checkpoint.save_interval = 0
    return cfg
"""


def tiny() -> dict[str, bytes]:
    """Its files; the width of 96 is not that of the recipe above."""
    words = {name: index for index, name in enumerate(["<pad>", "</s>", "<unk>", *(f"w{n}" for n in range(252))])}
    library: Any = import_module("tokenizers")  # it has no types
    tokenizer = library.Tokenizer(library.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    sizes = {"hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 192}
    return {
        "config.json": json.dumps({"model_type": "llama", "vocab_size": len(words), **sizes}).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}).encode(),
        "README.md": b"nobody needs this",
    }
