"""`peft=lora|dora|none`: which adapters a recipe trains, whatever it was written with."""

from typing import Any, Optional

from ..errors import UserError
from . import notes, sections

_LOW = 5e-5
"""Below this a learning rate is one for all weights: Bridge's recipes use 5e-6 for those, 1e-4 for adapters."""


def use(config: Any, scheme: str, bridge: Optional[str], where: str) -> None:
    """Train adapters of `scheme` ("lora", "dora"), or all weights ("none"); `bridge` is a Bridge recipe's name.

    The recipe's own adapters pass on the fields that both kinds have (dim, alpha, target_modules, ...). Raises
    UserError for a recipe that pretrains.
    """
    if scheme == "none":
        if config.peft is not None:
            notes.add(
                f"peft=none: all weights are trained with the learning rate of the recipe's adapters{_rate(config)}"
            )
        config.peft = None
        return
    from megatron.bridge.peft.dora import DoRA
    from megatron.bridge.peft.lora import LoRA

    kind = {"lora": LoRA, "dora": DoRA}[scheme]
    if type(config.peft) is kind:
        return
    if config.peft is None and _pretrains(config, bridge):
        raise UserError(
            f"peft={scheme}: this recipe pretrains, but adapters need the weights of a trained model",
            where=where,
            hint="use a recipe that fine-tunes: one with _sft_ or _peft_ in its name, or recipes/llama32_1b_lora.py",
        )
    rate = getattr(config.optimizer, "lr", None)
    if config.peft is None and isinstance(rate, float) and rate < _LOW:
        notes.add(
            f"peft={scheme}: the learning rate{_rate(config)} stays that of a recipe for all weights; adapters "
            "usually need at least ten times as much (optimizer.lr=1e-4 in Bridge's own recipes)"
        )
    config.peft = kind(**sections.shared_values(config.peft, kind))


def _rate(config: Any) -> str:
    rate = getattr(config.optimizer, "lr", None)
    return f" (optimizer.lr={rate:g})" if isinstance(rate, float) else ""


def _pretrains(config: Any, bridge: Optional[str]) -> bool:
    """Return whether a recipe pretrains: by its name or, for a file, if it reads token ids and starts from none."""
    if bridge is not None:
        return "_pretrain_" in bridge
    from megatron.bridge.training.config import GPTDatasetConfig

    return isinstance(config.dataset, GPTDatasetConfig) and config.checkpoint.pretrained_checkpoint is None
