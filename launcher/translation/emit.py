"""A translation as a recipe file of Megatron Bridge."""

from collections.abc import Iterable, Mapping
from typing import Any

from launcher.contract import values as hydra
from launcher.translation.table import load_table

_FUNCTIONS = {
    "silu": ("from torch.nn import functional", "functional.silu"),
    "gelu": ("from torch.nn import functional", "functional.gelu"),
    "quick_gelu": ("from megatron.core.fusions.fused_bias_geglu import quick_gelu", "quick_gelu"),
    "squared_relu": ("from megatron.core.activations import squared_relu", "squared_relu"),
}
_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16", "fp8": "torch.uint8"}


def recipe_source(words: Iterable[str], arguments: str) -> str:
    """Return a recipe that sets what the overrides set on Bridge's plain GPT recipe; `arguments` is where from."""
    base = load_table().base
    imports = {f"from megatron.bridge.recipes.gpt.vanilla_gpt import {base}"}
    imports.add("from megatron.bridge.training.config import ConfigContainer")
    values: dict[str, Any] = {}
    for one in map(hydra.parse, words):
        values[one.key] = one.value
    body = []
    made = False
    for key, value in values.items():
        if key.startswith("mixed_precision.") and not made:
            imports.add("from megatron.bridge.training.mixed_precision import get_mixed_precision_config")
            body.append("cfg.mixed_precision = get_mixed_precision_config(cfg.mixed_precision)")
            made = True
        body.append(f"cfg.{key} = {_expression(key, value, imports)}")
    lines = [
        '"""A GPT as Megatron-LM\'s command line describes it.',
        "",
        *(f"    {line}" for line in _folded(arguments)),
        '"""',
        "",
        *sorted(one for one in imports if one.startswith("import ")),
        *sorted(one for one in imports if not one.startswith("import ")),
        "",
        "",
        "def configure() -> ConfigContainer:",
        '    """Configure it."""',
        f"    cfg = {base}()",
        *(f"    {line}" for line in body),
        "    return cfg",
    ]
    return "\n".join(lines) + "\n"


def _expression(key: str, value: Any, imports: set[str]) -> str:
    if key == "model.activation_func" and value in _FUNCTIONS:
        line, name = _FUNCTIONS[value]
        imports.add(line)
        return name
    if key == "model.attention_backend":
        imports.add("from megatron.core.transformer.enums import AttnBackend")
        return f"AttnBackend.{value}"
    if key.endswith("_dtype") and value in _DTYPES:
        imports.add("import torch")
        return _DTYPES[value]
    return repr(value)


def _folded(text: str, width: int = 112) -> list[str]:
    lines: list[str] = []
    for word in text.replace("\\", "\\\\").replace('"""', "'''").split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def as_object(items: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return items of a translation as JSON has them."""
    return [
        {"given": one.text, "outcome": one.outcome, "said": list(one.said), "reason": one.reason, "why": one.why}
        for one in items
    ]
