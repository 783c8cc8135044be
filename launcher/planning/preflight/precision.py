"""Rules about precision: whether the GPU supports it, and whether the sizes suit it.

bf16 needs Ampere or newer, FP8 needs Hopper (Ada is left out here), MXFP8 and FP4 need Blackwell. Source: NVIDIA's data
sheets, and check_fp8_support and check_mxfp8_support of Transformer Engine.
"""

import re
from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding, refused

_GENERATION = {"V100": 7, "A100": 8, "H100": 9, "H200": 9, "B200": 10, "GB200": 10, "B300": 10, "GB300": 10}
"""Major number of the compute capability."""

_AMPERE, _HOPPER, _BLACKWELL = 8, 9, 10
_ROWS, _COLUMNS = 8, 16
"""FP8 products need a multiple of 8 rows and of 16 columns (Transformer Engine, assert_dim_for_fp8_exec)."""


def hardware(view: ConfigView) -> Iterator[Finding]:
    """Refuse bf16, FP8, MXFP8 or FP4 on a GPU of the cluster profile that does not support it."""
    generation = _GENERATION.get((view.gpu or "").upper())
    if generation is None or not view.gpus:
        return
    for text, needed, names in _requested(view):
        if generation < needed:
            yield refused(
                f"{text} needs {names}, and the GPUs of the cluster profile are of type {view.gpu}",
                "choose another mixed_precision, or another cluster",
            )


def _requested(view: ConfigView) -> Iterator[tuple[str, int, str]]:
    """Yield each requested precision, the GPU generation that it needs, and that in words; most demanding first."""
    plan = view.values.get("mixed_precision")
    words = plan if isinstance(plan, str) and not view.complete else ""
    if view.values.get("model.fp4") or re.search("fp4", words):
        yield f"FP4 ({_setting_text(view, 'model.fp4', words)})", _BLACKWELL, "Blackwell"
    elif view.values.get("model.fp8") and view.values.get("model.fp8_recipe") == "mxfp8":
        yield "MXFP8 (model.fp8_recipe=mxfp8)", _BLACKWELL, "Blackwell"
    elif "mxfp8" in words:
        yield f"MXFP8 (mixed_precision={words})", _BLACKWELL, "Blackwell"
    elif view.values.get("model.fp8") or "fp8" in words:
        yield f"FP8 ({_setting_text(view, 'model.fp8', words)})", _HOPPER, "Hopper or newer"
    if view.values.get("model.bf16") or words.startswith("bf16"):
        yield f"bf16 ({_setting_text(view, 'model.bf16', words)})", _AMPERE, "Ampere or newer"


def _setting_text(view: ConfigView, key: str, words: str) -> str:
    value = view.values.get(key)
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}" if value else f"mixed_precision={words}"


def fp8_shapes(view: ConfigView) -> Iterator[Finding]:
    """Refuse sizes of FP8 products that are not multiples of 8 rows and 16 columns."""
    if not (view.values.get("model.fp8") and view.complete):
        return
    tp = view.size("tensor_model_parallel_size") or 1
    for name, parts in (("hidden_size", 1), ("ffn_hidden_size", tp)):
        value = view.number(f"model.{name}")
        if value and value % parts == 0 and value // parts % _COLUMNS:
            over = f" / TP {tp}" if parts > 1 else ""
            yield refused(f"model.{name}={value}{over} is not a multiple of {_COLUMNS}, which FP8 products need")
    length, micro = view.number("model.seq_length"), view.number("train.micro_batch_size")
    cp = view.size("context_parallel_size") or 1
    if length and micro and length * micro // cp % _ROWS:
        yield refused(
            f"{length * micro // cp} tokens of a micro-batch (model.seq_length={length}, "
            f"train.micro_batch_size={micro}, CP {cp}) are not a multiple of {_ROWS}, which FP8 products need"
        )


RULES = (hardware, fp8_shapes)
"""In the order of their findings."""
