"""`peft=lora|dora|none`: which adapters a recipe trains, whatever it was written with."""

import dataclasses
from typing import Any, Optional

from ..errors import UserError
from . import notes

_LOW = 5e-5
"""A learning rate for all weights: Bridge's recipes have 5e-6 for those, and 1e-4 for adapters."""


def use(config: Any, scheme: str, bridge: Optional[str], where: str) -> None:
    """Train adapters of `scheme` ("lora", "dora"), or all weights ("none"); `bridge` is a Bridge recipe's name.

    Adapters that the recipe has keep what both kinds know (dim, alpha, target_modules, ...). Raises UserError for a
    recipe that pretrains.
    """
    if scheme == "none":
        if config.peft is not None:
            notes.add(
                f"peft=none: all weights are trained, with the learning rate of the recipe's adapters{_rate(config)}"
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
            f"peft={scheme}: this recipe pretrains, and adapters are trained beside the weights of a finished model",
            where=where,
            hint="use a recipe that fine-tunes: its name has _sft_ or _peft_, or is recipes/llama32_1b_lora.py",
        )
    rate = getattr(config.optimizer, "lr", None)
    if config.peft is None and isinstance(rate, float) and rate < _LOW:
        notes.add(
            f"peft={scheme}: the recipe trains all weights, and its learning rate{_rate(config)} stays; adapters "
            "usually take ten times as much and more (optimizer.lr=1e-4 in Bridge's own recipes)"
        )
    config.peft = kind(**_shared(config.peft, kind))


def _rate(config: Any) -> str:
    rate = getattr(config.optimizer, "lr", None)
    return f" (optimizer.lr={rate:g})" if isinstance(rate, float) else ""


def _shared(held: Any, kind: type) -> dict[str, Any]:
    """The values of the adapters that are replaced, as far as the new ones have such a field."""
    if not dataclasses.is_dataclass(held):
        return {}
    names = {field.name for field in dataclasses.fields(kind) if field.init and not field.name.startswith("_")}
    return {one.name: getattr(held, one.name) for one in dataclasses.fields(held) if one.name in names}


def _pretrains(config: Any, bridge: Optional[str]) -> bool:
    """By its name or, of a file, by what it reads and starts from: token ids, and no weights."""
    if bridge is not None:
        return "_pretrain_" in bridge
    from megatron.bridge.training.config import GPTDatasetConfig

    return isinstance(config.dataset, GPTDatasetConfig) and config.checkpoint.pretrained_checkpoint is None
