"""The request of a greedy continuation on both sides: Megatron's model, and the same model as transformers runs it."""

import json
from dataclasses import asdict, dataclass
from typing import Optional

from .conversion import DEVICES


@dataclass(frozen=True)
class GenerationRequest:
    """What to continue. All paths are absolute."""

    source: str
    """A run, a Megatron checkpoint, or a directory with a Hugging Face model."""
    prompts: "tuple[str, ...]"
    max_new_tokens: int = 64
    architecture: Optional[str] = None
    """As for a conversion: where config.json and the tokenizer are; for adapters the base model."""
    tokenizer: Optional[str] = None
    """A directory; None for the one beside the architecture."""
    device: str = "auto"
    """One of contract.conversion.DEVICES."""

    def to_json(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(asdict(self))


def parse(text: str) -> GenerationRequest:
    """Return the request in `text`. Raises ValueError or TypeError for anything else."""
    values = json.loads(text)
    request = GenerationRequest(**{**values, "prompts": tuple(values["prompts"])})
    if request.device not in DEVICES or request.max_new_tokens < 1 or not request.prompts:
        raise ValueError(text)
    return request
